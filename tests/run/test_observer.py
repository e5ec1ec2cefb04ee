"""Observers: a failing one is dropped, and the progress file shows the current step."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from evolve.lineage import Event, FamilyTree, RunStopped
from evolve.run.observer import Observers, ProgressFile, Silent, StepProgress, read_progress

EVENT = RunStopped(reason="converged", generation=1, detail="")
AT = "2026-01-01T00:00:00.000+00:00"


class Recorder:
    """An observer that keeps all its calls."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def recorded(self, event: Event, tree: FamilyTree, at: str) -> None:
        self.calls.append((event, tree, at))

    def working(self, call_id: str, words: str, done: int, total: int) -> None:
        self.calls.append((call_id, words, done, total))

    def note(self, words: str) -> None:
        self.calls.append(words)


class Failing(Silent):
    """An observer that raises an error at each note and counts its calls."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.calls = 0

    def note(self, words: str) -> None:
        self.calls += 1
        raise self.error


def test_all_observers_get_all_calls() -> None:
    first, second, tree = Recorder(), Recorder(), FamilyTree()
    observers = Observers(first, Silent(), second)
    observers.recorded(EVENT, tree, AT)
    observers.working("merge a", "merging", 1, 2)
    observers.note("words")
    assert first.calls == second.calls == [(EVENT, tree, AT), ("merge a", "merging", 1, 2), "words"]


@pytest.mark.parametrize("error", [LookupError("a bug"), BrokenPipeError(), OSError(28, "No space left on device")])
def test_a_failing_observer_is_logged_once_and_dropped(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    failing, healthy = Failing(error), Recorder()
    observers = Observers(failing, healthy)
    with caplog.at_level(logging.ERROR, logger="evolve.run"):
        observers.note("one")
        observers.note("two")
    assert failing.calls == 1
    assert healthy.calls == ["one", "two"]
    (record,) = caplog.records
    assert record.name == "evolve.run"
    assert "observer Failing" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_an_interrupt_or_exit_is_raised(error: BaseException) -> None:
    with pytest.raises(type(error)):
        Observers(Failing(error)).note("words")


class Clock:
    """A clock that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_progress_file_shows_the_current_step(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "progress.json"
    assert read_progress(path) is None
    observer = ProgressFile(path)
    observer.working("evaluate A", "scoring größe", 3, 7)
    progress = read_progress(path)
    assert progress is not None
    assert progress == StepProgress("evaluate A", "scoring größe", 3, 7, progress.at)
    assert progress.at.endswith("+00:00")
    assert set(json.loads(path.read_text())) == {"step", "words", "done", "total", "at"}
    assert [item.name for item in tmp_path.iterdir()] == ["progress.json"]
    observer.close()
    assert read_progress(path) is None
    observer.close()


def test_the_progress_file_is_written_once_a_second_and_for_each_new_step(tmp_path: Path, clock: Clock) -> None:
    observer = ProgressFile(tmp_path / "progress.json")

    def shown() -> tuple[str, int]:
        progress = read_progress(tmp_path / "progress.json")
        assert progress is not None
        return progress.step, progress.done

    observer.working("a", "scoring", 1, 9)
    clock.now += 0.9
    observer.working("a", "scoring", 2, 9)
    assert shown() == ("a", 1)
    clock.now += 0.1
    observer.working("a", "scoring", 3, 9)
    assert shown() == ("a", 3)
    observer.working("b", "scoring", 0, 9)
    assert shown() == ("b", 0)


def test_a_progress_file_that_cannot_be_written_is_ignored(tmp_path: Path, clock: Clock) -> None:
    observer = ProgressFile(tmp_path / "later" / "progress.json")
    observer.working("a", "scoring", 1, 9)
    observer.close()
    (tmp_path / "later").mkdir()
    observer.working("b", "scoring", 1, 9)
    assert read_progress(tmp_path / "later" / "progress.json") is not None
    (tmp_path / "folder" / "progress.json").mkdir(parents=True)
    blocked = ProgressFile(tmp_path / "folder" / "progress.json")
    blocked.working("a", "scoring", 1, 9)
    blocked.close()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"step": "a"}', '{"done": []}', "\xff", "[" * 100_000])
def test_a_damaged_progress_file_counts_as_missing(tmp_path: Path, text: str) -> None:
    (tmp_path / "progress.json").write_bytes(text.encode("latin-1"))
    assert read_progress(tmp_path / "progress.json") is None
