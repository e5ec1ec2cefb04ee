"""Scores that runs share: atomic, and with errors that never end a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolve.engines.protocols import EvaluateResult, TaskScore
from evolve.run.store import ScoreRecord, ScoreStore

KEY = "k" * 64


@pytest.fixture
def store(tmp_path: Path) -> ScoreStore:
    return ScoreStore(tmp_path / ".scores", tmp_path / "run")


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "evals" / "m" / "alpha"
    (folder / "samples").mkdir(parents=True)
    (folder / "samples" / "a.jsonl").write_text("{}")
    score = TaskScore("acc,none", 0.5, None, 9)
    result = EvaluateResult({"alpha": score}, seconds=2.0, batch_size=4, task_seconds={"alpha": 1.5})
    ScoreRecord.of(KEY, "alpha", result).write(folder)
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "staging"
    path.mkdir(parents=True)
    return path / "alpha"


def test_a_kept_score_is_fetched_with_all_files(store: ScoreStore, scored: Path, target: Path) -> None:
    assert store.fetch(KEY, target) is None
    store.keep(KEY, scored)
    record, original = store.fetch(KEY, target), ScoreRecord.read(scored, KEY)
    assert original is not None
    assert record == original.model_copy(update={"reused": True})
    assert record == ScoreRecord.read(target, KEY)
    assert (original.batch_size, original.seconds, original.reused) == (4, 1.5, False)
    assert (target / "samples" / "a.jsonl").exists()
    assert [path.name for path in store.root.iterdir()] == [KEY]


@pytest.mark.parametrize("text", ["", "{", '{"key": "another"}'])
def test_a_damaged_record_counts_as_missing_and_is_replaced(
    store: ScoreStore, scored: Path, target: Path, text: str
) -> None:
    store.keep(KEY, scored)
    (store.root / KEY / "score.json").write_text(text)
    assert store.fetch(KEY, target) is None
    assert not target.exists()
    store.keep(KEY, scored)
    assert store.fetch(KEY, target) is not None


def test_a_store_that_cannot_be_written_is_ignored(store: ScoreStore, scored: Path) -> None:
    store.root.write_text("a file where the folder should be")
    store.keep(KEY, scored)
    store.tidy()


def test_a_file_that_disappears_while_it_is_copied_is_ignored(store: ScoreStore, scored: Path, target: Path) -> None:
    store.keep(KEY, scored)
    (store.root / KEY / "missing").symlink_to("nowhere")
    assert store.fetch(KEY, target) is None
    assert not target.exists()


def test_only_own_leftovers_are_deleted(store: ScoreStore, tmp_path: Path) -> None:
    other = ScoreStore(store.root, tmp_path / "other")
    for one in (store, other):
        (store.root / f"{one._prefix}{KEY}").mkdir(parents=True)
    store.tidy()
    assert {path.name for path in store.root.iterdir()} == {f"{other._prefix}{KEY}"}
