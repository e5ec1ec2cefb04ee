"""The journal: what is in it stays, what is torn is cut off, what is damaged is named."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evolve.errors import RunFolderError
from evolve.lineage import SCHEMA, Event, ModelFailed, fold
from evolve.run.journal import Journal, read_journal, tree_of

GOLDEN = Path(__file__).parent / "golden"


def _event(number: int) -> ModelFailed:
    return ModelFailed(model=f"m{number}", step="merge", reason="ünfit\r\n\u2028 {}", attempts=number)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Journal(tmp_path / "journal.jsonl") as journal:
        for number in range(1, 6):
            journal.append(_event(number))
    return tmp_path / "journal.jsonl"


def test_events_come_back_in_order(path: Path) -> None:
    assert read_journal(path) == [_event(number) for number in range(1, 6)]
    with Journal(path) as journal:
        assert journal.events == read_journal(path)
        journal.append(_event(6))
    assert len(read_journal(path)) == 6
    entry = json.loads(path.read_bytes().splitlines()[-1])
    assert entry["seq"] == 6
    assert entry["at"].endswith("+00:00")


@pytest.mark.parametrize("torn", [b"{", b'{"seq": 6, "at": "2026', b"\x00\x00\x00", b"\xff"])
def test_a_torn_last_line_is_passed_over_and_cut_off_before_the_next_append(path: Path, torn: bytes) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert len(read_journal(path)) == 5
    assert path.read_bytes() == whole + torn  # a reader changes nothing
    with Journal(path) as journal:
        assert path.read_bytes() == whole
        journal.append(_event(6))
    assert read_journal(path)[5] == _event(6)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_byte_is_noticed_and_its_line_named(path: Path, data: st.DataObject) -> None:
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 2))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != whole[place]))
    damaged = path.with_name("damaged.jsonl")
    damaged.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
    line = whole[:place].count(b"\n") + 1
    if line == 5 and value == ord("\n"):
        return  # its rest is a torn last line
    with pytest.raises(RunFolderError, match=rf"damaged\.jsonl: line {line} "):
        read_journal(damaged)


def test_a_missing_or_doubled_line_is_noticed(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    for wrong in (lines[:2] + lines[3:], lines[:2] + lines[1:], lines[1:], [b"\n", *lines]):
        path.write_bytes(b"".join(wrong))
        with pytest.raises(RunFolderError, match=r"line [123] "):
            read_journal(path)


@pytest.mark.parametrize("line", [b"[" * 100_000, b"5", b"null", b'"text"', b"{}", b'{"seq": 1, "event": {}}'])
def test_a_line_that_is_something_else_is_noticed(path: Path, line: bytes) -> None:
    path.write_bytes(line + b"\n")
    with pytest.raises(RunFolderError, match="line 1 is damaged"):
        read_journal(path)


def test_a_newer_journal_is_refused_whatever_else_is_new_in_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    line: dict[str, Any] = {"seq": 1, "event": {"type": "genesis", "schema_version": SCHEMA + 1}, "seal": 7}
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(RunFolderError, match="newer version of evolve"):
        read_journal(path)
    with pytest.raises(RunFolderError, match="newer version of evolve"):
        Journal(path)


def test_a_journal_that_is_not_there_or_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="there is no journal"):
        read_journal(tmp_path / "journal.jsonl")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_journal(tmp_path / "folder")


def test_what_contradicts_is_an_error_with_its_line(tmp_path: Path) -> None:
    events = read_journal(GOLDEN / "journal-1.jsonl")
    with pytest.raises(RunFolderError, match=f"line {len(events) + 1} contradicts"):
        tree_of([*events, events[-1]], tmp_path / "journal.jsonl")
    with pytest.raises(RunFolderError, match="line 1 contradicts"):
        tree_of(events[1:], tmp_path / "journal.jsonl")


@pytest.mark.parametrize("written", [0, 1, 40])
def test_a_full_disk_leaves_the_journal_as_it_was(path: Path, written: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = path.read_bytes()
    with Journal(path) as journal:
        file = journal._file

        class Full:
            def write(self, line: bytes) -> int:
                return file.write(line[:written])

            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

        monkeypatch.setattr(journal, "_file", Full())
        with pytest.raises(OSError, match="No space left") as caught:
            journal.append(_event(6))
        assert caught.value.errno == errno.ENOSPC
        assert path.read_bytes() == whole
        monkeypatch.setattr(journal, "_file", file)
        journal.append(_event(6))
    assert len(read_journal(path)) == 6


def test_each_event_is_synced_before_append_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with Journal(path) as journal:
        journal.append(_event(6))
        assert synced == [journal._file.fileno()]


@pytest.mark.parametrize("version", range(1, SCHEMA + 1))
def test_journals_of_all_versions_stay_readable(version: int) -> None:
    events = read_journal(GOLDEN / f"journal-{version}.jsonl")
    tree = fold(events)
    expected = json.loads((GOLDEN / f"journal-{version}.json").read_text())
    assert {event.type for event in events} >= set(expected["types"])
    if version == SCHEMA:
        assert {event.type for event in events} == {kind.model_fields["type"].default for kind in get_args(Event)}
    assert [model.name for model in tree.models] == expected["models"]
    assert [model.name for model in tree.ranking] == expected["ranking"]
    assert tree.stop is not None
    assert tree.stop.reason == expected["stop"]
    failed, retried, remade = expected["failed"], expected["retried"], expected["remade"]
    assert {model.name: model.reason for model in tree.models if model.status == "failed"} == failed
    assert {model.name: list(model.retries) for model in tree.models if model.retries} == retried
    assert {model.name: list(model.remade) for model in tree.models if model.remade} == remade
