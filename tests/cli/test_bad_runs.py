"""An unusable run folder: one message with its path and the fix, and nothing changed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("no_work")


def test_a_run_folder_that_is_a_file(refused, fake_family, tmp_path):
    (tmp_path / "run").touch()

    refused("run", fake_family, "--run-dir", tmp_path / "run", words=(f"{tmp_path}/run: is a file", "--run-dir"))
    refused("run", fake_family, "--run-dir", tmp_path / "run" / "in", words=(f"{tmp_path}/run/in: ", "--run-dir"))


def test_a_run_folder_that_holds_something_else(refused, fake_family, tmp_path):
    refused(
        *("run", fake_family, "--run-dir", fake_family.parent),
        words=(f"{fake_family.parent}: ", "is not empty and is not a run (A, B, C)", "--run-dir"),
    )


@pytest.mark.parametrize("inside", ["", "deep/er"])
def test_a_run_folder_that_is_not_writable(refused, fake_family, tmp_path, monkeypatch, inside):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    # Root, who may run the tests, can write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).stat().st_mode >> 6 & mode == mode)

    refused(
        *("run", fake_family, "--run-dir", closed / inside),
        words=(f"{closed / inside}: cannot be written", f"{closed} is not writable", "choose another --run-dir"),
    )


def test_a_run_folder_whose_name_is_too_long(refused, fake_family, tmp_path):
    refused(
        "run", fake_family, "--run-dir", tmp_path / ("x" * 300), words=("cannot be used", "choose another --run-dir")
    )


def test_a_run_folder_of_another_configuration(refused, fake_family, run_copy):
    refused(
        *("run", fake_family, "--run-dir", run_copy, "--set", "seed=1"),
        words=(f"{run_copy}: holds a run of another configuration", "then", "seed", "give another --run-dir"),
        lines=3,
    )


# ------------------------------------------------------------------------------------------------------ reading runs

READERS = {
    "tree": ("tree", "{run}"),
    "show": ("show", "{run}", "A"),
    "status": ("status", "{run}"),
    "compare": ("compare", "{run}"),
    "resume": ("resume", "{run}"),
}


def _reader(name: str, run: Path) -> list[str]:
    return [part.format(run=run) for part in READERS[name]]


@pytest.mark.parametrize("name", READERS)
def test_a_folder_that_is_not_a_run(refused, tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "journal.jsonl").touch()

    refused(*_reader(name, tmp_path / "no"), words=(f"{tmp_path}/no: ", "no such folder", "give the folder of a run"))
    refused(*_reader(name, tmp_path / "file"), words=(f"{tmp_path}/file: ", "is a file", "give the folder of a run"))
    refused(
        *_reader(name, tmp_path / "empty"), words=(f"{tmp_path}/empty: ", "is not a run", "give the folder of a run")
    )
    refused(*_reader(name, tmp_path / "begun"), words=(f"{tmp_path}/begun: ", "not begun", "evolve run CONFIG"))


def test_an_unknown_model(refused, finished_run):
    refused(
        "show",
        finished_run,
        "model-1-7",
        words=(f"{finished_run}: ", "no model model-1-7", "did you mean", "model-1-1"),
    )
    refused("show", finished_run, "Zx", words=(f"{finished_run}: ", "no model Zx", "its models are A, B, C, model-1-1"))


@pytest.mark.parametrize("name", READERS)
def test_a_journal_of_a_newer_version(refused, run_copy, name):
    journal = run_copy / "journal.jsonl"
    first, _, rest = journal.read_text().partition("\n")
    entry = json.loads(first)
    entry["event"]["schema_version"] += 1
    journal.write_text(json.dumps(entry) + "\n" + rest)

    refused(*_reader(name, run_copy), words=(f"{journal}: ", "newer version of evolve", "upgrade evolve"))


def test_a_journal_of_a_newer_version_is_not_resumed(refused, fake_family, run_copy):
    test_a_journal_of_a_newer_version(
        lambda *arguments, words: refused("run", fake_family, "--run-dir", run_copy, words=words), run_copy, "resume"
    )


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_journal(refused, run_copy, name):
    journal = run_copy / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b"0.", b"1.", 1)
    journal.write_bytes(b"\n".join(lines))

    refused(*_reader(name, run_copy), words=(f"{journal}: line 3 is damaged", "restore the journal"))


def test_a_run_folder_named_like_a_key(refused, fake_family, tmp_path):
    (tmp_path / "merge").touch()

    message = refused("run", fake_family, "--run-dir", "merge", words=("is a file",))

    assert message.startswith("merge: ")
