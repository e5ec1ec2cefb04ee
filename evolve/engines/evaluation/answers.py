"""What a model answered: kept on disk, counted for the progress, and refused where it is not a number."""

from __future__ import annotations

import json
import logging
import math
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from evolve.engines.protocols import Report
from evolve.errors import EvaluationError

__all__ = ["REQUEST_TYPES", "AnswerStore", "Answering"]

REQUEST_TYPES = ("loglikelihood", "loglikelihood_rolling", "generate_until")

_log = logging.getLogger("evolve.engines.evaluation")


class AnswerStore:
    """The database behind lm-eval's `CachingLM`: an SQLite file of answers, all of them in memory as well.

    lm-eval's own commits each answer by itself, which costs a write to the disk per item. This one commits at most
    once in `interval` seconds, and only between batches: so the items that are left after a cut fall into the very
    batches they would have been in, and their scores are the same to the last digit. For the same reason an answer is
    given as often as it was computed and no more, since a request that occurs twice may be cut in between.
    """

    def __init__(self, path: Path, interval: float = 1.0) -> None:
        """Opens the file or makes it; what a killed process left is rolled back, a damaged file is made anew.

        Args:
            path: The file.
            interval: Seconds between commits.
        """
        self.path = path
        self.hits = 0
        self._interval = interval
        self._committed = time.monotonic()
        self._pending: dict[str, None] = {}
        self._hooked: set[str] = set()
        self._asked: Counter[str] = Counter()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection, self._answers = self._open()
        except (sqlite3.DatabaseError, ValueError) as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            _log.warning("the request cache %s is damaged (%s) and is made anew", path, error)
            path.unlink()
            self._connection, self._answers = self._open()

    def _open(self) -> tuple[sqlite3.Connection, dict[str, tuple[Any, int]]]:
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            connection.execute("CREATE TABLE IF NOT EXISTS answers (request TEXT PRIMARY KEY, answer TEXT, times INT)")
            rows = connection.execute("SELECT request, answer, times FROM answers").fetchall()
            return connection, {request: (_decoded(answer), times) for request, answer, times in rows}
        except BaseException:
            connection.close()
            raise

    def begin(self) -> None:
        """A new list of requests is about to be looked up."""
        self._asked.clear()
        self._hooked.clear()

    def add(self, request: str, answer: Any) -> None:
        """Takes an answer fresh from the model."""
        self._hooked.add(request)
        self._put(request, answer)

    def batch_starts(self) -> None:
        """All answers of the batches before have been added; writes them if it is time."""
        if time.monotonic() - self._committed >= self._interval:
            self.commit()

    def __contains__(self, request: str) -> bool:
        self._asked[request] += 1
        return self._answers.get(request, (None, 0))[1] >= self._asked[request]

    def __getitem__(self, request: str) -> Any:
        self.hits += 1
        return self._answers[request][0]

    def __setitem__(self, request: str, answer: Any) -> None:
        """Called by `CachingLM` for each answer of a finished list; those that came by `add` are here already."""
        if request not in self._hooked:
            self._put(request, answer)

    def _put(self, request: str, answer: Any) -> None:
        self._answers[request] = (answer, self._answers.get(request, (None, 0))[1] + 1)
        self._pending[request] = None

    def commit(self) -> None:
        """Writes what is not yet on the disk, in one transaction."""
        if self._pending:
            rows = [
                (request, json.dumps(self._answers[request][0]), self._answers[request][1]) for request in self._pending
            ]
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", rows)
            self._connection.execute("COMMIT")
            self._pending.clear()
        self._committed = time.monotonic()

    def close(self) -> None:
        """Closes the file; what was not committed is lost, as its batch may be incomplete."""
        self._connection.close()


class Answering:
    """Stands between lm-eval and a model while it answers; made by `attach`."""

    def __init__(self, report: Report, store: AnswerStore | None) -> None:
        self._report = report
        self._store = store
        self._words = ""
        self._done = 0
        self._total = 0
        self._said = 0.0
        self._batches_known = False
        self.instances: Callable[[], Sequence[Any]] = list
        """Gives all requests of the present call of lm-eval."""

    def attach(self, lm: Any) -> None:
        """Routes the requests of a model object through this one, until `detach`."""
        from lm_eval.api.model import CacheHook, CachingLM

        answering = self

        class Hook(CacheHook):  # type: ignore[misc]  # lm-eval has no types
            """lm-eval calls it for every answer."""

            def add_partial(self, attr: str, req: Any, res: Any) -> None:
                answering._answered(attr, req, res)

        class Cached(CachingLM):  # type: ignore[misc]
            """lm-eval's look-up over our store. Its own constructor would open a second one."""

            def __init__(self, lm: Any, store: AnswerStore) -> None:
                self.lm, self.cache_db, self.dbdict = lm, str(store.path), store

        plain = SimpleNamespace(**{name: getattr(lm, name) for name in REQUEST_TYPES})
        source = plain if self._store is None else Cached(plain, self._store)
        for name in REQUEST_TYPES:
            setattr(lm, name, self._asked(name, getattr(source, name)))
        for name in ("_model_call", "_model_generate"):
            if hasattr(lm, name):
                self._batches_known = True
                setattr(lm, name, self._batched(getattr(lm, name)))
        lm.set_cache_hook(Hook(None))

    def detach(self, lm: Any) -> None:
        """Undoes `attach`: a model that refers to itself through its wrappers would outlive its last user."""
        for name in (*REQUEST_TYPES, "_model_call", "_model_generate"):
            vars(lm).pop(name, None)

    def _asked(self, name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def ask(requests: Sequence[Any], **options: Any) -> Any:
            if not self._total or self._done >= self._total:
                self._total = self._done + sum(instance.repeats for instance in self.instances())
            self._words = _words(requests)
            start = self._done
            hits = self._begin()
            answers = answer(requests, **options)
            _log.info("%s: %d requests, %d of them answered before", name, len(requests), self._hits() - hits)
            for given in answers:
                _refuse_nan(given, self._words)
            self._done = start + len(requests)
            self._say(now=True)
            return answers

        return ask

    def _batched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*positional: Any, **named: Any) -> Any:
            if self._store is not None:
                # Answers that lm-eval found in the store are counted by now.
                self._store.batch_starts()
            return call(*positional, **named)

        return run

    def _begin(self) -> int:
        if self._store is not None:
            self._store.begin()
        self._say(now=True)
        return self._hits()

    def _hits(self) -> int:
        return 0 if self._store is None else self._store.hits

    def _answered(self, name: str, request: Any, answer: Any) -> None:
        from lm_eval.api.model import hash_args

        _refuse_nan(answer, self._words)
        if self._store is not None:
            self._store.add(hash_args(name, request), answer)
            if not self._batches_known:
                self._store.batch_starts()
        self._done += 1
        self._say()

    def _say(self, *, now: bool = False) -> None:
        clock = time.monotonic()
        if now or clock - self._said >= 0.1:
            self._said = clock
            self._report(self._words, min(self._done, self._total), self._total)


def _words(requests: Sequence[Any]) -> str:
    names = list(dict.fromkeys(request.task_name for request in requests))
    return f"scoring {', '.join(names) if len(names) <= 3 else f'{len(names)} tasks'}"


def _refuse_nan(answer: Any, words: str) -> None:
    value = answer[0] if isinstance(answer, tuple) else answer
    if isinstance(value, float) and math.isnan(value):
        raise EvaluationError(
            f"{words}: the model gives a log-likelihood that is not a number. Its weights are damaged, or its "
            "activations overflow in this dtype (try model_args: {dtype: bfloat16} or float32)."
        )


def _decoded(text: str) -> Any:
    answer = json.loads(text)
    return tuple(answer) if isinstance(answer, list) else answer
