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

from evolve.engines.evaluation import evaluate
from evolve.engines.evaluation.answers import AnswerStore

from . import _world

ROOT = Path(__file__).parents[3]
LOGLIKELIHOODS, GENERATIONS = 84, 12


def rows(database: Path) -> int:
    if not database.exists():
        return 0
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        try:
            return connection.execute("SELECT COUNT(*) FROM answers").fetchone()[0]
        except sqlite3.OperationalError:  # the table is not there yet
            return 0


def kill_at(model: Path, data: Path, output: Path, stem: Path, count: int) -> int:
    """Kills an evaluation of its own process as soon as it has kept so many answers; returns how many it kept."""
    import datasets

    script = Path(__file__).with_name("_cut.py")
    command = [sys.executable, str(script), *map(str, (model, data, output, stem, datasets.config.HF_DATASETS_CACHE))]
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    database = stem.with_name(stem.name + "_rank0.db")
    limit = time.monotonic() + 120
    while rows(database) < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < limit
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    return rows(database)


@pytest.fixture
def computed(monkeypatch):
    """Requests that reach the model."""
    from lm_eval.models.huggingface import HFLM

    counts = {"_loglikelihood_tokens": 0, "generate_until": 0}

    def counted(name, call):
        def run(self, requests, *args, **kwargs):
            counts[name] += len(requests)
            return call(self, requests, *args, **kwargs)

        return run

    for name in counts:
        monkeypatch.setattr(HFLM, name, counted(name, getattr(HFLM, name)))
    return counts


def test_a_killed_evaluation_goes_on_from_what_was_answered(model, data, tmp_path, computed):
    three, stem = _world.three_tasks(data), tmp_path / "cache" / "requests"
    uncut = evaluate(_world.job(model, three, tmp_path / "uncut"), _world.silent)
    assert computed == {"_loglikelihood_tokens": LOGLIKELIHOODS, "generate_until": GENERATIONS}

    kept = kill_at(model, data, tmp_path / "killed", stem, 8)
    assert 8 <= kept < LOGLIKELIHOODS

    computed.update(_loglikelihood_tokens=0, generate_until=0)
    seen = []
    threads = threading.active_count()
    cut = evaluate(_world.job(model, three, tmp_path / "cut", request_cache=stem), lambda *said: seen.append(said))
    assert computed == {"_loglikelihood_tokens": LOGLIKELIHOODS - kept, "generate_until": GENERATIONS}
    assert cut.scores == uncut.scores
    for file in (tmp_path / "uncut").glob("samples_*"):
        assert (tmp_path / "cut" / file.name).read_text() == file.read_text()
    assert seen[-1][1:] == (LOGLIKELIHOODS + GENERATIONS,) * 2
    assert threading.active_count() <= threads


@pytest.mark.parametrize("stop", [30, 31, 32, 33, 90], ids=lambda stop: f"answer-{stop}")
def test_what_is_left_falls_into_the_same_batches(model, data, tmp_path, monkeypatch, stop):
    """Cut within a batch or at its end, then on again: every batch is one of the uncut run's."""
    from lm_eval.models.huggingface import HFLM

    batches: list[tuple] = []
    answers = 0
    add = AnswerStore.add

    def recorded(call):
        def run(self, *args, **kwargs):
            tokens = kwargs["context"] if "context" in kwargs else args[0]
            batches.append(tuple(map(tuple, tokens.tolist())))
            return call(self, *args, **kwargs)

        return run

    def cut(self, request, answer):
        nonlocal answers
        answers += 1
        if answers == stop:
            raise KeyboardInterrupt
        add(self, request, answer)

    monkeypatch.setattr(HFLM, "_model_call", recorded(HFLM._model_call))
    monkeypatch.setattr(HFLM, "_model_generate", recorded(HFLM._model_generate))
    monkeypatch.setattr(AnswerStore.__init__, "__defaults__", (0.0,))
    three, stem = _world.three_tasks(data), tmp_path / "requests"
    uncut = evaluate(_world.job(model, three, tmp_path / "uncut"), _world.silent)
    whole, batches[:] = batches[:], []
    # Answers that differ in their last token share a place in a batch: 12 batches, then 3 of generation.
    assert len(whole) == 15
    monkeypatch.setattr(AnswerStore, "add", cut)
    with pytest.raises(KeyboardInterrupt):
        evaluate(_world.job(model, three, tmp_path / "cut", request_cache=stem), _world.silent)
    monkeypatch.setattr(AnswerStore, "add", add)
    finished = len(batches) - 1
    assert finished > 0
    batches.clear()
    again = evaluate(_world.job(model, three, tmp_path / "cut", request_cache=stem), _world.silent)
    assert batches == whole[finished:]
    assert again.scores == uncut.scores


def test_finished_cache_answers_everything(model, data, tmp_path, computed):
    three = _world.three_tasks(data, limit=3)
    first = evaluate(_world.job(model, three, tmp_path / "a", request_cache=tmp_path / "c"), _world.silent)
    computed.update(_loglikelihood_tokens=0, generate_until=0)
    second = evaluate(_world.job(model, three, tmp_path / "b", request_cache=tmp_path / "c"), _world.silent)
    assert computed == {"_loglikelihood_tokens": 0, "generate_until": 0}
    assert second.scores == first.scores


def test_store_gives_an_answer_as_often_as_it_was_computed(tmp_path):
    with closing(AnswerStore(tmp_path / "x.db")) as store:
        store.begin()
        store.add("twice", (-1.5, True))
        store.add("text", "seven")
        store["twice"] = (-1.5, True)  # as CachingLM repeats it at the end of the list
        store.commit()
    with closing(AnswerStore(tmp_path / "x.db")) as store:
        store.begin()
        assert "twice" in store
        assert store["twice"] == (-1.5, True)
        assert "twice" not in store
        assert "text" in store
        assert store["text"] == "seven"
        assert "other" not in store


def test_store_keeps_only_whole_batches(tmp_path):
    with closing(AnswerStore(tmp_path / "x.db", interval=0)) as store:
        store.begin()
        store.add("a", 0.5)
        store.batch_starts()
        store.add("b", 0.5)
    with closing(AnswerStore(tmp_path / "x.db")) as store:
        assert "a" in store
        assert "b" not in store


def test_store_survives_a_kill_in_mid_transaction(tmp_path):
    """The half-written transaction leaves a hot journal, which the next opening rolls back."""
    code = """
import sys, time
from pathlib import Path
from evolve.engines.evaluation.answers import AnswerStore
store = AnswerStore(Path(sys.argv[1]))
store.begin()
for i in range(200):
    store.add(f"kept {i}", "x" * 100)
store.commit()
connection = store._connection
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
    with closing(AnswerStore(database)) as store:
        assert all(f"kept {i}" in store and store[f"kept {i}"] == "x" * 100 for i in range(200))
        assert "lost 0" not in store


def test_store_replaces_a_damaged_file(tmp_path, caplog):
    (tmp_path / "x.db").write_bytes(b"SQLite format 3\0" + b"\x07" * 5000)
    with closing(AnswerStore(tmp_path / "x.db")) as store:
        store.add("a", 1.0)
        store.commit()
    assert "damaged" in caplog.text
    with closing(AnswerStore(tmp_path / "x.db")) as store:
        assert "a" in store
