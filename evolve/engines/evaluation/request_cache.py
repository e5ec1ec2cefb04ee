"""The cache of a model's answers on disk, from which an interrupted evaluation resumes."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["RequestCache"]

_log = logging.getLogger("evolve.engines.evaluation")

_UNUSABLE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
}
"""SQLite's error codes for a file system that cannot hold a database; SQLITE_FULL is not one of them."""

_warned: set[Path] = set()
"""Folders that the log already names as unable to hold a request cache."""


class RequestCache:
    """The database behind lm-eval's `CachingLM`: answers by request, in memory and in an SQLite file.

    lm-eval's own database commits each answer by itself, which costs a disk write per item. This one commits at most
    once per `interval`, and only between batches. So after an interruption the remaining items form the same batches
    as in an uninterrupted run, and their scores are equal to the last digit. (With batch size `auto` lm-eval's own
    class makes batches that depend on what remains.) For the same reason an answer is returned only as often as it was
    computed: a request that occurs twice may be interrupted in between.

    A file system without working locks cannot hold the file. Then the answers are kept in memory only, and this is
    logged once.
    """

    def __init__(self, path: Path | None, interval: float = 1.0) -> None:
        """Open or create the file; roll back what a killed process left; replace a damaged file.

        Args:
            path: The file; None keeps the answers in memory only.
            interval: Least number of seconds between two commits.

        Raises:
            sqlite3.OperationalError: The disk is full.
        """
        self.path = path
        self.hits = 0
        self._interval = interval
        self._committed = time.monotonic()
        self._pending: dict[str, None] = {}
        self._added: set[str] = set()
        self._asked: Counter[str] = Counter()
        self._connection: sqlite3.Connection | None = None
        self._answers: dict[str, tuple[Any, int]] = {}
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._open(path)
        except sqlite3.OperationalError as error:
            self._disable(error, path)
        except (sqlite3.DatabaseError, ValueError) as error:
            _log.warning("the request cache %s is damaged (%s); starting a new one", path, error)
            path.unlink()
            self._open(path)

    def _open(self, path: Path) -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            connection.execute("CREATE TABLE IF NOT EXISTS answers (request TEXT PRIMARY KEY, answer TEXT, times INT)")
            rows = connection.execute("SELECT request, answer, times FROM answers").fetchall()
            self._answers = {request: (_decode(answer), times) for request, answer, times in rows}
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _disable(self, error: sqlite3.OperationalError, path: Path) -> None:
        """Continue without the file if the file system is the cause of an error, else raise the error."""
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF not in _UNUSABLE:
            raise error
        self.close()
        self._connection = None
        if path.parent not in _warned:
            _warned.add(path.parent)
            _log.warning(
                "no request cache in %s (%s): an interrupted evaluation will start its task again", path.parent, error
            )

    def learn(self, known: Mapping[str, tuple[Any, int]]) -> None:
        """Take answers of earlier evaluations by request, each with how often it may be returned.

        They are committed at once. A cache that an interrupted evaluation left takes none: it has those with which that
        evaluation began, and with others the remaining items would form other batches.
        """
        if not self._answers:
            self._answers = dict(known)
            self._pending = dict.fromkeys(known)
            self.commit()

    def answer(self, request: str) -> tuple[Any, int]:
        """Return the answer to a request, with how often it was computed; None and 0 if it was not."""
        return self._answers.get(request, (None, 0))

    def start_list(self) -> None:
        """Prepare for the look-up of a new list of requests."""
        self._asked.clear()
        self._added.clear()

    def add(self, request: str, answer: Any) -> None:
        """Take an answer that the model has just computed."""
        self._added.add(request)
        self._put(request, answer)

    def start_batch(self) -> None:
        """Commit if the interval is over; all answers of the batches before must have been added."""
        if time.monotonic() - self._committed >= self._interval:
            self.commit()

    def __contains__(self, request: str) -> bool:
        self._asked[request] += 1
        return self.answer(request)[1] >= self._asked[request]

    def __getitem__(self, request: str) -> Any:
        self.hits += 1
        return self._answers[request][0]

    def take(self, request: str) -> Any:
        """Return the answer to the next request of a list; None if it is to be computed."""
        if request not in self:  # this counts how often it was asked
            return None
        return self[request]

    def __setitem__(self, request: str, answer: Any) -> None:
        """Take an answer from `CachingLM`, which repeats at the end of a list those that came through `add`."""
        if request not in self._added:
            self._put(request, answer)

    def _put(self, request: str, answer: Any) -> None:
        self._answers[request] = (answer, self.answer(request)[1] + 1)
        self._pending[request] = None

    def commit(self) -> None:
        """Write the new answers to the file, in one transaction.

        Raises:
            sqlite3.OperationalError: The disk is full.
        """
        if self._pending and self._connection is not None and self.path is not None:
            rows = [
                (request, json.dumps(self._answers[request][0]), self._answers[request][1]) for request in self._pending
            ]
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", rows)
                self._connection.execute("COMMIT")
            except sqlite3.OperationalError as error:
                self._disable(error, self.path)
        self._pending.clear()
        self._committed = time.monotonic()

    def close(self) -> None:
        """Close the file and discard answers that are not committed, as their batch may be incomplete."""
        if self._connection is not None:
            self._connection.close()


def _decode(text: str) -> Any:
    answer = json.loads(text)
    return tuple(answer) if isinstance(answer, list) else answer
