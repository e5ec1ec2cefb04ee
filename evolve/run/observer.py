"""Observers of a run: the display of the command line, the file that `evolve status` reads, or none."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from evolve.lineage import Event, FamilyTree
from evolve.run.journal import utc_now

__all__ = ["Observer", "Observers", "ProgressFile", "Silent", "StepProgress", "read_progress"]

_LOG = logging.getLogger("evolve.run")
_WRITE_EVERY_S = 1.0


class Observer(Protocol):
    """A listener to a run. The driver calls it from its own thread, so it must return quickly."""

    def recorded(self, event: Event, tree: FamilyTree, at: str) -> None:
        """Take an event that was written to the journal.

        Args:
            event: The event.
            tree: The family tree with the event.
            at: The UTC time of the event in ISO format, as in the journal.
        """

    def working(self, call_id: str, words: str, done: int, total: int) -> None:
        """Take note that a call has finished `done` of `total` units of the work that `words` name."""

    def note(self, words: str) -> None:
        """Take a message for the user that is not an event."""


class Silent:
    """An observer that does nothing."""

    def recorded(self, event: Event, tree: FamilyTree, at: str) -> None:
        """Ignore the event."""

    def working(self, call_id: str, words: str, done: int, total: int) -> None:
        """Ignore the progress."""

    def note(self, words: str) -> None:
        """Ignore the message."""


class Observers:
    """Several observers as one. One that raises an error is logged and dropped; the run continues without it."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = list(observers)

    def recorded(self, event: Event, tree: FamilyTree, at: str) -> None:
        """Pass the event on to all observers."""
        self._notify(lambda observer: observer.recorded(event, tree, at))

    def working(self, call_id: str, words: str, done: int, total: int) -> None:
        """Pass the progress on to all observers."""
        self._notify(lambda observer: observer.working(call_id, words, done, total))

    def note(self, words: str) -> None:
        """Pass the message on to all observers."""
        self._notify(lambda observer: observer.note(words))

    def _notify(self, tell: Callable[[Observer], None]) -> None:
        for observer in tuple(self._observers):
            try:
                tell(observer)
            except Exception:  # noqa: BLE001 - an observer must never end a run
                _LOG.exception("observer %s failed and is dropped; the run continues", type(observer).__name__)
                self._observers = [other for other in self._observers if other is not observer]


@dataclass(frozen=True)
class StepProgress:
    """The progress of the present step.

    Attributes:
        step: The id of its call.
        words: The work that is under way.
        done: Units of that work that are finished.
        total: All units; 0 where their number is not known.
        at: The UTC time of the report in ISO format.
    """

    step: str
    words: str
    done: int
    total: int
    at: str


class ProgressFile:
    """An observer that keeps the progress of the present step in a small JSON file, for other processes to read.

    The file is replaced atomically, at once for a new step and then at most once a second. An OSError is ignored: the
    file only informs.

    Args:
        path: The file. Its folder may appear later.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._step: str | None = None
        self._written = 0.0

    def recorded(self, event: Event, tree: FamilyTree, at: str) -> None:
        """Ignore the event."""

    def working(self, call_id: str, words: str, done: int, total: int) -> None:
        """Write the progress, unless the file is recent."""
        now = time.monotonic()
        if call_id == self._step and now - self._written < _WRITE_EVERY_S:
            return
        self._step, self._written = call_id, now
        report = StepProgress(call_id, words, done, total, utc_now())
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        with contextlib.suppress(OSError):
            draft.write_text(json.dumps(asdict(report)), encoding="utf-8")
            draft.replace(self._path)

    def note(self, words: str) -> None:
        """Ignore the message."""

    def close(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def read_progress(path: Path) -> StepProgress | None:
    """Return what a `ProgressFile` holds; None where the file is missing or not readable.

    The file of a driver that was killed stays, so ask the lock whether the run is being driven.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return StepProgress(
            step=str(data["step"]),
            words=str(data["words"]),
            done=int(data["done"]),
            total=int(data["total"]),
            at=str(data["at"]),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
