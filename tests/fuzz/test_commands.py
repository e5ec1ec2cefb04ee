"""Commands on changed files: exit code 0 or 2 with one message, and nothing changed outside the run folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from fakes import FAKE
from hypothesis import strategies as st

from evolve.config import load_config
from evolve.errors import EvolveError
from evolve.run.journal import _sealed
from evolve.run.observer import Silent
from evolve.run.session import Session
from tests.cli.conftest import Inline, snapshot
from tests.fuzz._mutations import FEW, changed_bytes, explore, structures, texts

pytestmark = pytest.mark.parametrize("examples", [FEW // 4, pytest.param(600, marks=pytest.mark.slow)])


@st.composite
def journals(draw: st.DrawFn, good: bytes) -> bytes:
    """Draw a journal with one changed entry, whose checksum is right again, or with changed bytes."""
    lines = good.splitlines(keepends=True)
    if draw(st.integers(0, 3)) == 3:
        return draw(changed_bytes(good))
    at = draw(st.integers(0, len(lines) - 1))
    entry = json.loads(lines[at])
    del entry["crc"]
    event = draw(structures(entry["event"]))
    changed = {**entry, "event": event} if draw(st.booleans()) else draw(structures(entry))
    try:
        lines[at] = _sealed(changed) if isinstance(changed, dict) else json.dumps(changed).encode() + b"\n"
    except ValueError:  # a number that JSON does not have
        lines[at] = lines[at][:-9]
    return b"".join(lines)


def require_answer(answer: object, folder: Path, before: object) -> None:
    """Require a result or one message, no traceback, and no change in a folder."""
    assert answer.code in {0, 2}, answer.err
    if answer.code == 2:
        assert answer.err.startswith("evolve: ")
        assert not answer.out
        assert not [word for word in ("Traceback", "pydantic", "NoneType") if word in answer.err]
    assert snapshot(folder) == before


def test_journals_that_are_looked_at(run_copy, tmp_path, command, examples):
    journal = run_copy / "journal.jsonl"

    def check(data: bytes) -> None:
        journal.write_bytes(data)
        before = snapshot(tmp_path)
        for arguments in (("status", run_copy), ("tree", run_copy), ("show", run_copy, "A"), ("compare", run_copy)):
            require_answer(command(*arguments), tmp_path, before)
            require_answer(command(*arguments, "--json"), tmp_path, before)

    explore(journals(journal.read_bytes()), check, examples)


def test_journals_that_are_resumed(fake_family, tmp_path, examples, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)  # each example may write a complete run
    source = tmp_path / "source" / "run"
    Session(FAKE, Silent(), executors=Inline.executors).run(load_config(fake_family), source)
    good = (source / "journal.jsonl").read_bytes()
    lines = good.splitlines(keepends=True)
    run = tmp_path / "runs" / "run"

    def check(data: bytes) -> None:
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        shutil.copytree(source, run)
        (run / "journal.jsonl").write_bytes(data)
        before = snapshot(tmp_path / "family"), snapshot(source)
        try:
            Session(FAKE, Silent(), executors=Inline.executors).run(load_config(fake_family), run)
        except EvolveError as error:
            assert str(error)  # noqa: PT017 - a finished run is right, too
        assert (snapshot(tmp_path / "family"), snapshot(source)) == before
        assert {path.name for path in tmp_path.iterdir()} == {"family", "source", "runs"}

    half = b"".join(lines[: len(lines) // 2])
    explore(st.one_of(journals(good), journals(half)), check, examples)


def test_configurations_that_are_checked(fake_family, tmp_path, command, no_work, examples):
    good = fake_family.read_text()
    raw = yaml.safe_load(good)
    written = structures(raw).map(lambda value: yaml.safe_dump(value, sort_keys=False).encode())

    def check(data: bytes) -> None:
        fake_family.write_bytes(data)
        before = snapshot(tmp_path)
        require_answer(command("check", fake_family), tmp_path, before)

    explore(st.one_of(written, texts(good)), check, examples)


def test_recipes_that_are_checked(fake_family, tmp_path, command, no_work, examples):
    recipe = fake_family.parent / "mine.yaml"
    raw = yaml.safe_load(fake_family.read_text())
    raw["merge"]["recipe"] = "./mine.yaml"
    fake_family.write_text(yaml.safe_dump(raw))
    good = (
        "merge_method: slerp\nbase_model: {{ parent_1 }}\nmodels: [{model: {{ parent_1 }}}, {model: {{ parent_2 }}}]\n"
        "dtype: {{ dtype }}\nparameters: {t: 0.5}\n"
    )

    def check(data: bytes) -> None:
        recipe.write_bytes(data)
        before = snapshot(tmp_path)
        require_answer(command("check", fake_family), tmp_path, before)

    explore(texts(good), check, examples)
