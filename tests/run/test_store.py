"""Evaluations that runs share: whole or not there, and never an obstacle."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolve.engines.protocols import EvaluateResult, TaskScore
from evolve.run.store import EvaluationRecord, ScoreStore

KEY = "k" * 64


@pytest.fixture
def store(tmp_path: Path) -> ScoreStore:
    return ScoreStore(tmp_path / ".scores", tmp_path / "run")


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "evals" / "m"
    (folder / "samples").mkdir(parents=True)
    (folder / "samples" / "a.jsonl").write_text("{}")
    result = EvaluateResult({"alpha": TaskScore("acc,none", 0.5, None, 9)}, seconds=2.0, batch_size=4)
    EvaluationRecord.of(KEY, result).write(folder)
    return folder


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "staging" / "x"
    path.mkdir(parents=True)
    return path


def test_what_is_kept_is_found_with_all_files(store: ScoreStore, evaluation: Path, staged: Path) -> None:
    assert store.fetch(KEY, staged) is None
    store.keep(KEY, evaluation)
    record = store.fetch(KEY, staged)
    assert record == EvaluationRecord.read(evaluation, KEY)
    assert record is not None
    assert record.batch_size == 4
    assert (staged / "samples" / "a.jsonl").exists()
    assert [path.name for path in store.root.iterdir()] == [KEY]


@pytest.mark.parametrize("text", ["", "{", '{"key": "another"}'])
def test_what_is_damaged_counts_as_not_there_and_is_replaced(
    store: ScoreStore, evaluation: Path, staged: Path, text: str
) -> None:
    store.keep(KEY, evaluation)
    (store.root / KEY / "scores.json").write_text(text)
    assert store.fetch(KEY, staged) is None
    store.keep(KEY, evaluation)
    assert store.fetch(KEY, staged) is not None


def test_a_store_that_cannot_be_written_is_passed_over(
    store: ScoreStore, evaluation: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.root.write_text("a file where the folder should be")
    store.keep(KEY, evaluation)
    store.tidy()


def test_what_vanishes_while_it_is_copied_is_passed_over(store: ScoreStore, evaluation: Path, staged: Path) -> None:
    store.keep(KEY, evaluation)
    (store.root / KEY / "gone").symlink_to("nowhere")
    assert store.fetch(KEY, staged) is None
    assert not list(staged.iterdir())


def test_only_own_leftovers_are_cleared(store: ScoreStore, evaluation: Path, tmp_path: Path) -> None:
    store.keep(KEY, evaluation)
    other = ScoreStore(store.root, tmp_path / "other")
    for one in (store, other):
        (store.root / f"{one._prefix}{KEY}").mkdir()
    store.tidy()
    assert {path.name for path in store.root.iterdir()} == {KEY, f"{other._prefix}{KEY}"}
