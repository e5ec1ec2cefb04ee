"""Interrupted evaluations resume from the request caches of their tasks, with the same batches and scores."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from evolve.engines.evaluation.interception import Interception
from evolve.engines.evaluation.request_cache import RequestCache

from . import _world

ROOT = Path(__file__).parents[3]
REQUESTS = {"winogrande": 24, "gsm8k": 12, "truthfulqa_mc2": 60}
LOGLIKELIHOODS, GENERATIONS = 84, 12


def rows(database: Path) -> int:
    if not database.exists():
        return 0
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        try:
            return connection.execute("SELECT COUNT(*) FROM answers").fetchone()[0]
        except sqlite3.OperationalError:  # the table is not there yet
            return 0


def kill_at(arguments: tuple[Path, ...], caches: Path, task: str, count: int) -> int:
    """Start an evaluation in its own process and kill it once a task's cache has `count` answers; return its number."""
    import datasets

    script = Path(__file__).with_name("_cut.py")
    command = [sys.executable, str(script), *map(str, (*arguments, caches, datasets.config.HF_DATASETS_CACHE))]
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    database = _world.database(caches, task)
    deadline = time.monotonic() + 240
    while rows(database) < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    return rows(database)


@pytest.fixture
def computed(monkeypatch):
    """Number of requests that the model has answered, by their kind."""
    counts = {"loglikelihood": 0, "generate_until": 0}
    answered = Interception._answered

    def counted(self, name, request, answer):
        counts[name] += 1
        answered(self, name, request, answer)

    monkeypatch.setattr(Interception, "_answered", counted)
    return counts


def test_a_killed_evaluation_resumes_inside_a_task(model, data, tmp_path, computed):
    three, caches = _world.three_tasks(data), tmp_path / "caches"
    uncut = _world.score(model, three, tmp_path / "uncut", batch_size=1)
    assert computed == {"loglikelihood": LOGLIKELIHOODS, "generate_until": GENERATIONS}

    kept = kill_at((model, data, tmp_path / "killed"), caches, "truthfulqa_mc2", 8)
    assert 8 <= kept < REQUESTS["truthfulqa_mc2"]
    finished = {task: rows(_world.database(caches, task)) for task in ("winogrande", "gsm8k")}

    computed.update(loglikelihood=0, generate_until=0)
    seen = []
    threads = threading.active_count()
    cut = _world.score(
        model,
        three,
        tmp_path / "cut",
        lambda *said: seen.append(said),
        request_caches=_world.request_caches(caches, three),
        batch_size=1,
    )
    # The last second before the end of a task may not have been committed.
    lost = {task: REQUESTS[task] - count for task, count in finished.items()}
    assert computed == {
        "loglikelihood": REQUESTS["truthfulqa_mc2"] - kept + lost["winogrande"],
        "generate_until": lost["gsm8k"],
    }
    assert all(count > 0 for count in finished.values())
    assert cut.scores == uncut.scores
    assert _world.samples_of(tmp_path / "cut") == _world.samples_of(tmp_path / "uncut")
    assert seen[-1] == ("scoring truthfulqa_mc2", 36, 36)
    assert threading.active_count() <= threads


@pytest.mark.parametrize("stop", [5, 8, 9, 10, 30, 66], ids=lambda stop: f"answer-{stop}")
def test_the_remaining_requests_form_the_same_batches(model, data, tmp_path, monkeypatch, stop):
    """Interrupted within a batch or at its end, in any task: the resumed run has the uninterrupted run's batches.

    These are lm-eval's own batches; those of shared prefixes and of generation are in `hf/`.
    """
    from lm_eval.models.huggingface import HFLM

    batches: list[tuple] = []

    def recorded(call):
        def run(self, *args, **kwargs):
            tokens = kwargs["context"] if "context" in kwargs else args[0]
            batches.append(tuple(map(tuple, tokens.tolist())))
            return call(self, *args, **kwargs)

        return run

    monkeypatch.setattr(HFLM, "_model_call", recorded(HFLM._model_call))
    monkeypatch.setattr(HFLM, "_model_generate", recorded(HFLM._model_generate))
    monkeypatch.setattr(RequestCache.__init__, "__defaults__", (0.0,))
    three = _world.three_tasks(data)
    caches = _world.request_caches(tmp_path, three)
    uncut = _world.score(model, three, tmp_path / "uncut", prefix_sharing=False)
    whole, batches[:] = batches[:], []
    # Requests that differ only in their last token are computed once.
    assert len(whole) == 15
    with _world.interrupted(stop), pytest.raises(KeyboardInterrupt):
        _world.score(model, three, tmp_path / "cut", request_caches=caches, prefix_sharing=False)
    finished = len(batches) - 1
    assert finished > 0
    batches.clear()
    again = _world.score(model, three, tmp_path / "again", request_caches=caches, prefix_sharing=False)
    assert batches == whole[finished:]
    assert again.scores == uncut.scores


def test_a_complete_cache_answers_everything(model, data, tmp_path, computed):
    three = _world.three_tasks(data, limit=3)
    caches = _world.request_caches(tmp_path, three)
    first = _world.score(model, three, tmp_path / "a", request_caches=caches)
    computed.update(loglikelihood=0, generate_until=0)
    second = _world.score(model, three, tmp_path / "b", request_caches=caches)
    assert computed == {"loglikelihood": 0, "generate_until": 0}
    assert second.scores == first.scores


def test_an_answer_is_returned_as_often_as_it_was_computed(tmp_path):
    with closing(RequestCache(tmp_path / "x.db")) as cache:
        cache.start_list()
        cache.add("twice", (-1.5, True))
        cache.add("text", "seven")
        cache["twice"] = (-1.5, True)  # as CachingLM repeats it at the end of the list
        cache.commit()
    with closing(RequestCache(tmp_path / "x.db")) as cache:
        cache.start_list()
        assert "twice" in cache
        assert cache["twice"] == (-1.5, True)
        assert "twice" not in cache
        assert "text" in cache
        assert cache["text"] == "seven"
        assert "other" not in cache


def test_only_complete_batches_are_kept(tmp_path):
    with closing(RequestCache(tmp_path / "x.db", interval=0)) as cache:
        cache.start_list()
        cache.add("a", 0.5)
        cache.start_batch()
        cache.add("b", 0.5)
    with closing(RequestCache(tmp_path / "x.db")) as cache:
        assert "a" in cache
        assert "b" not in cache


def test_a_kill_within_a_transaction_loses_no_committed_answer(tmp_path):
    """The half-written transaction leaves a hot journal, which the next opening rolls back."""
    code = """
import sys, time
from pathlib import Path
from evolve.engines.evaluation.interception import Interception
from evolve.engines.evaluation.request_cache import RequestCache
cache = RequestCache(Path(sys.argv[1]))
cache.start_list()
for i in range(200):
    cache.add(f"kept {i}", "x" * 100)
cache.commit()
connection = cache._connection
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN IMMEDIATE")
connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, 1)", ((f"kept {i}", '"y"') for i in range(200)))
long = '"' + "z" * 4000 + '"'
connection.executemany("INSERT INTO answers VALUES (?, ?, 1)", ((f"lost {i}", long) for i in range(500)))
print("now", flush=True)
time.sleep(60)
"""
    database = tmp_path / "x.db"
    process = subprocess.Popen([sys.executable, "-c", code, str(database)], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout.readline() == b"now\n"
    process.kill()
    process.wait()
    process.stdout.close()
    assert (tmp_path / "x.db-journal").stat().st_size > 0
    with closing(RequestCache(database)) as cache:
        assert all(f"kept {i}" in cache and cache[f"kept {i}"] == "x" * 100 for i in range(200))
        assert "lost 0" not in cache


def test_a_damaged_file_is_replaced(tmp_path, caplog):
    (tmp_path / "x.db").write_bytes(b"SQLite format 3\0" + b"\x07" * 5000)
    with closing(RequestCache(tmp_path / "x.db")) as cache:
        cache.add("a", 1.0)
        cache.commit()
    assert "damaged" in caplog.text
    with closing(RequestCache(tmp_path / "x.db")) as cache:
        assert "a" in cache


@pytest.fixture
def cached(model, data, tmp_path):
    """A function that scores two documents of each task with request caches in the test's folder."""
    three = _world.three_tasks(data, limit=2)
    return lambda: (
        _world.score(model, three, tmp_path / "out", request_caches=_world.request_caches(tmp_path, three)).scores
    )


@pytest.fixture(scope="module")
def expected(model, data, tmp_path_factory):
    """The scores of two documents of each task."""
    return _world.score(model, _world.three_tasks(data, limit=2), tmp_path_factory.mktemp("expected")).scores


def warnings_of(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_a_cache_that_cannot_be_opened_does_not_fail_the_evaluation(cached, expected, tmp_path, caplog, monkeypatch):
    """One file is locked by another process, and another is a folder."""
    connect = sqlite3.connect
    _world.database(tmp_path, "gsm8k").mkdir()
    with closing(connect(_world.database(tmp_path, "winogrande"), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, timeout=0.1))
        assert cached() == expected
    (message,) = warnings_of(caplog)
    assert message.startswith(f"no request cache in {tmp_path} (database is locked)")
    assert rows(_world.database(tmp_path, "truthfulqa_mc2")) == 10


class Failing:
    """A connection whose commits fail with an error code of SQLite."""

    def __init__(self, connection: sqlite3.Connection, code: int, words: str) -> None:
        self._connection = connection
        self._error = sqlite3.OperationalError(words)
        self._error.sqlite_errorcode = code

    def execute(self, statement: str) -> sqlite3.Cursor:
        if statement == "COMMIT":
            raise self._error
        return self._connection.execute(statement)

    def __getattr__(self, name: str):
        return getattr(self._connection, name)


def failing(monkeypatch, code: int, words: str) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: Failing(connect(*a, **k), code, words))
    monkeypatch.setattr(RequestCache.__init__, "__defaults__", (0.0,))


@pytest.mark.parametrize(
    "failure",
    [
        (sqlite3.SQLITE_BUSY, "database is locked"),
        (sqlite3.SQLITE_IOERR_LOCK, "disk I/O error"),
        (sqlite3.SQLITE_PROTOCOL, "locking protocol"),
        (sqlite3.SQLITE_READONLY, "attempt to write a readonly database"),
    ],
    ids=lambda failure: failure[1],
)
def test_a_cache_that_cannot_be_written_does_not_fail_the_evaluation(cached, expected, caplog, monkeypatch, failure):
    failing(monkeypatch, *failure)
    assert cached() == expected
    (message,) = warnings_of(caplog)
    assert f"({failure[1]})" in message


def test_a_full_disk_stays_an_error(cached, monkeypatch):
    failing(monkeypatch, sqlite3.SQLITE_FULL, "database or disk is full")
    with pytest.raises(sqlite3.OperationalError, match="database or disk is full"):
        cached()


def test_the_error_of_sqlite_for_a_full_file_stays_an_error(tmp_path):
    """SQLite raises it itself, because of a limit on the size of the file."""
    with closing(RequestCache(tmp_path / "x.db")) as cache:
        cache._connection.execute("PRAGMA max_page_count = 2")
        cache.add("long", "x" * 100_000)
        with pytest.raises(sqlite3.OperationalError, match="database or disk is full"):
            cache.commit()
