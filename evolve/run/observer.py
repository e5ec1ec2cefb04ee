"""Observers of a run: the protocol, their fan-out, and the progress file that `evolve status` reads."""

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

from evolve.files import MOST_RECORD, read_json
from evolve.lineage import Event, FamilyTree
from evolve.run.durable import create_file
from evolve.run.journal import utc_now

__all__ = ["Observer", "Observers", "ProgressFile", "Silent", "StepProgress", "read_progress"]

_LOG = logging.getLogger("evolve.run")
_WRITE_EVERY_S = 1.0


class Observer(Protocol):
    """A listener to a run. The driver waits for each call, so it must return quickly."""

    def recorded(self, event: Event, tree: FamilyTree, at: str) -> None:
        """Show or store an event that was written to the journal.

        Args:
            event: The event.
            tree: The family tree after the event.
            at: The UTC time of the event in ISO format, as in the journal.
        """

    def working(self, call_id: str, words: str, done: int, total: int) -> None:
        """Show or store the progress of a call: `done` of `total` units of the work that `words` names."""

    def note(self, words: str) -> None:
        """Show a message to the user that is not an event."""


class Silent:
    """An observer that does nothing."""

    def recorded(self, event: Event, tree: FamilyTree, at: str) -> None:
        """Ignore the event."""

    def working(self, call_id: str, words: str, done: int, total: int) -> None:
        """Ignore the progress."""

    def note(self, words: str) -> None:
        """Ignore the message."""


class Observers:
    """Several observers as one. An observer that raises an error is logged and dropped, and the run continues."""

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

    def _notify(self, call: Callable[[Observer], None]) -> None:
        for observer in tuple(self._observers):
            try:
                call(observer)
            except Exception:  # noqa: BLE001 - an observer must never end a run
                _LOG.exception("observer %s failed and is dropped; the run continues", type(observer).__name__)
                self._observers = [other for other in self._observers if other is not observer]


@dataclass(frozen=True)
class StepProgress:
    """The progress of the current step.

    Attributes:
        step: The id of its call.
        words: Name of the current work.
        done: Number of finished units of that work.
        total: Number of all units; 0 if unknown.
        at: The UTC time of the report in ISO format.
    """

    step: str
    words: str
    done: int
    total: int
    at: str


class ProgressFile:
    """An observer that writes the progress of the current step to a JSON file, for other processes.

    The file is replaced atomically: at once for a new step, then at most once a second. An OSError is ignored, because
    no result depends on the file.

    Args:
        path: The file. Its folder may be made later.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._step: str | None = None
        self._written = 0.0

    def recorded(self, event: Event, tree: FamilyTree, at: str) -> None:
        """Ignore the event."""

    def working(self, call_id: str, words: str, done: int, total: int) -> None:
        """Write the progress, unless it was written within the last second."""
        now = time.monotonic()
        if call_id == self._step and now - self._written < _WRITE_EVERY_S:
            return
        self._step, self._written = call_id, now
        report = StepProgress(call_id, words, done, total, utc_now())
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
            with create_file(draft) as file:
                file.write(json.dumps(asdict(report)))
            draft.replace(self._path)

    def note(self, words: str) -> None:
        """Ignore the message."""

    def close(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def read_progress(path: Path) -> StepProgress | None:
    """Return the content of a `ProgressFile`; None if the file is missing or not readable.

    A driver that is killed leaves its file, so check the lock to see whether the run is being driven.
    """
    try:
        data = read_json(path, MOST_RECORD)
        return StepProgress(
            step=str(data["step"]),
            words=str(data["words"]),
            done=int(data["done"]),
            total=int(data["total"]),
            at=str(data["at"]),
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
