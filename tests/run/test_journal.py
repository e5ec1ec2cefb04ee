"""The journal: entries are durable, an incomplete last line is cut off, a damaged line is named."""

from __future__ import annotations

import errno
import json
import os
import zlib
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evolve.errors import RunFolderError
from evolve.lineage import SCHEMA, Event, FamilyTree, ModelFailed
from evolve.run.journal import Entry, Journal, read_journal, tree_of, utc_now

GOLDEN = Path(__file__).parent / "golden"


def _event(number: int) -> ModelFailed:
    return ModelFailed(model=f"m{number}", step="merge", reason="ünfit\r\n\u2028 {}", attempts=number)


def _events(path: Path) -> list[Event]:
    return [entry.event for entry in read_journal(path)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Journal(tmp_path / "journal.jsonl") as journal:
        for number in range(1, 6):
            journal.append(_event(number))
    return tmp_path / "journal.jsonl"


def test_events_are_read_in_order_with_their_times(path: Path) -> None:
    assert _events(path) == [_event(number) for number in range(1, 6)]
    with Journal(path) as journal:
        assert journal.entries == read_journal(path)
        at = journal.append(_event(6))
        assert journal.append(_event(7), "2026-01-01T00:00:00.000+00:00") == "2026-01-01T00:00:00.000+00:00"
    assert read_journal(path)[5:] == [Entry(at, _event(6)), Entry("2026-01-01T00:00:00.000+00:00", _event(7))]
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, 8))
    assert [line["at"] for line in lines] == [entry.at for entry in read_journal(path)]
    assert [line["at"] for line in lines[:6]] == sorted(line["at"] for line in lines[:6])
    assert at.endswith("+00:00")
    assert len(at) == len(utc_now())


def test_a_time_that_is_not_a_string_is_damage(path: Path) -> None:
    body = json.dumps({"seq": 1, "at": 5, "event": _event(1).model_dump(mode="json")})[:-1].encode()
    path.write_bytes(body + b', "crc": "%08x"}\n' % zlib.crc32(body))
    with pytest.raises(RunFolderError, match="line 1 is damaged"):
        read_journal(path)


@pytest.mark.parametrize("torn", [b"{", b'{"seq": 6, "at": "2026', b"\x00\x00\x00", b"\xff"])
def test_an_incomplete_last_line_is_ignored_and_cut_off_before_the_next_append(path: Path, torn: bytes) -> None:
    before = path.read_bytes()
    path.write_bytes(before + torn)
    assert len(read_journal(path)) == 5
    assert path.read_bytes() == before + torn  # a reader changes nothing
    with Journal(path) as journal:
        assert path.read_bytes() == before
        journal.append(_event(6))
    assert _events(path)[5] == _event(6)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_byte_is_detected_and_its_line_named(path: Path, data: st.DataObject) -> None:
    before = path.read_bytes()
    position = data.draw(st.integers(0, len(before) - 2))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != before[position]))
    damaged = path.with_name("damaged.jsonl")
    damaged.write_bytes(before[:position] + bytes([value]) + before[position + 1 :])
    line = before[:position].count(b"\n") + 1
    if line == 5 and value == ord("\n"):
        return  # the rest is an incomplete last line
    with pytest.raises(RunFolderError, match=rf"damaged\.jsonl: line {line} "):
        read_journal(damaged)


def test_a_missing_or_repeated_line_is_detected(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    for wrong in (lines[:2] + lines[3:], lines[:2] + lines[1:], lines[1:], [b"\n", *lines]):
        path.write_bytes(b"".join(wrong))
        with pytest.raises(RunFolderError, match=r"line [123] "):
            read_journal(path)


@pytest.mark.parametrize("line", [b"[" * 100_000, b"5", b"null", b'"text"', b"{}", b'{"seq": 1, "event": {}}'])
def test_a_line_that_is_not_an_entry_is_detected(path: Path, line: bytes) -> None:
    path.write_bytes(line + b"\n")
    with pytest.raises(RunFolderError, match="line 1 is damaged"):
        read_journal(path)


def test_a_journal_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    line: dict[str, Any] = {"seq": 1, "event": {"type": "genesis", "schema_version": SCHEMA + 1}, "seal": 7}
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(RunFolderError, match="newer version of evolve"):
        read_journal(path)
    with pytest.raises(RunFolderError, match="newer version of evolve"):
        Journal(path)


def test_a_missing_or_unreadable_journal_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is missing; give the folder of a run"):
        read_journal(tmp_path / "journal.jsonl")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunFolderError, match="is a folder, not a regular file; restore the journal"):
        read_journal(tmp_path / "folder")


def test_an_event_that_contradicts_earlier_ones_is_an_error_with_its_line(tmp_path: Path) -> None:
    entries = read_journal(GOLDEN / "journal-1.jsonl")
    with pytest.raises(RunFolderError, match=f"line {len(entries) + 1} contradicts"):
        tree_of([*entries, entries[-1]], tmp_path / "journal.jsonl")
    with pytest.raises(RunFolderError, match="line 1 contradicts"):
        tree_of(entries[1:], tmp_path / "journal.jsonl")


def test_the_tree_gets_each_event_with_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries, applied = read_journal(GOLDEN / "journal-1.jsonl"), []
    monkeypatch.setattr(FamilyTree, "apply", lambda tree, event, at=None: applied.append(Entry(at, event)))
    tree_of(entries, tmp_path / "journal.jsonl")
    assert applied == entries
    assert applied[0].at == "2026-11-22T12:10:33.462+00:00"


@pytest.mark.parametrize("written", [0, 1, 40])
def test_a_full_disk_leaves_the_journal_unchanged(path: Path, written: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
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
        assert path.read_bytes() == before
        monkeypatch.setattr(journal, "_file", file)
        journal.append(_event(6))
    assert len(read_journal(path)) == 6


def test_each_event_is_synced_before_append_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with Journal(path) as journal:
        journal.append(_event(6))
        assert synced == [journal._file.fileno()]


def test_a_journal_of_a_race_is_readable() -> None:
    path = GOLDEN / "journal-2-racing.jsonl"
    tree = tree_of(read_journal(path), path)
    statuses = {model.name: model.status for model in tree.models}
    assert [name for name, status in statuses.items() if status == "dropped"] == [
        "model-2-2",
        "model-2-3",
        "model-2-exp",
    ]
    assert tree.top(3) == ("model-1-1", "model-2-1", "A")


@pytest.mark.parametrize("version", range(1, SCHEMA + 1))
def test_journals_of_all_versions_are_readable(version: int) -> None:
    path = GOLDEN / f"journal-{version}.jsonl"
    entries = read_journal(path)
    tree, events = tree_of(entries, path), [entry.event for entry in entries]
    expected = json.loads((GOLDEN / f"journal-{version}.json").read_text())
    assert {event.type for event in events} >= set(expected["types"])
    if version == SCHEMA:
        races = {entry.event.type for entry in read_journal(GOLDEN / f"journal-{version}-racing.jsonl")}
        kinds = {kind.model_fields["type"].default for kind in get_args(Event)}
        assert {event.type for event in events} | races == kinds
    assert [model.name for model in tree.models] == expected["models"]
    assert [model.name for model in tree.ranking] == expected["ranking"]
    assert [(recorded.at, recorded.event) for recorded in tree.history] == [
        (entry.at, entry.event) for entry in entries
    ]
    assert tree.stop is not None
    assert tree.stop.reason == expected["stop"]
    assert tree.base_path == expected["base_path"]
    failed, retried, remade = expected["failed"], expected["retried"], expected["remade"]
    assert {model.name: model.reason for model in tree.models if model.status == "failed"} == failed
    assert {model.name: list(model.retries) for model in tree.models if model.retries} == retried
    assert {model.name: list(model.remade) for model in tree.models if model.remade} == remade
