"""Runs by name, and shell completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from evolve.cli.names import complete_runs, find_run


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a working directory with the runs `demo` and `other` in `runs/`."""
    for name in ("demo", "other"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "journal.jsonl").touch()
    (tmp_path / "runs" / "nursery").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_name_means_a_run_in_runs(directory):
    assert find_run("demo") == Path("runs/demo")
    assert find_run("runs/demo") == Path("runs/demo")
    assert find_run("nursery") == Path("runs/nursery")  # so that a message names this folder


def test_a_folder_with_a_journal_in_the_working_directory_comes_first(directory):
    (directory / "demo").mkdir()
    assert find_run("demo") == Path("runs/demo")

    (directory / "demo" / "journal.jsonl").touch()
    assert find_run("demo") == Path("demo")


@pytest.mark.parametrize("name", ["no", "./demo/x", "x/demo", "/demo", "..", "."])
def test_other_paths_are_not_changed(directory, name):
    assert find_run(name) == Path(name)


@pytest.mark.parametrize(
    "arguments",
    [("tree", "run"), ("status", "run"), ("show", "run", "A"), ("compare", "run", "run"), ("resume", "run")],
    ids=lambda arguments: arguments[0],
)
def test_every_command_finds_a_run_by_name(command, finished_run, tmp_path, monkeypatch, arguments):
    (tmp_path / "runs").symlink_to(finished_run.parent)
    monkeypatch.chdir(tmp_path)

    answer = command(*arguments)

    assert answer.code == 0
    assert answer.out


@pytest.mark.parametrize(
    ("incomplete", "runs"),
    [
        ("", ["demo", "other"]),
        ("de", ["demo"]),
        ("x", []),
        ("runs/", ["runs/demo", "runs/other"]),
        ("runs/o", ["runs/other"]),
    ],
)
def test_completion_of_runs(directory, incomplete, runs):
    assert list(complete_runs(incomplete)) == runs


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("evolve tree r", ["run"]),
        ("evolve compare run ru", ["run"]),
        ("evolve show run model-2", ["model-2-1", "model-2-2", "model-2-3", "model-2-exp"]),
        ("evolve show no ", []),
    ],
)
def test_the_shell_completes_names(finished_run, tmp_path, line, words):
    (tmp_path / "runs").symlink_to(finished_run.parent)
    number = len(line.split(" ")) - 1
    environment = {"_EVOLVE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(number)}
    code = "import sys; sys.argv[0] = 'evolve'; from evolve.cli.app import app; app(prog_name='evolve')"

    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.stdout.split() == words
    assert not done.stderr
