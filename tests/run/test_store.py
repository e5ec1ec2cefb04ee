"""Scores that runs share: atomic, and with errors that never end a run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from evolve.config import TaskConfig
from evolve.engines.protocols import EvaluateResult, TaskScore
from evolve.run.ranges import impossible
from evolve.run.store import ScoreRecord, ScoreStore

KEY = f"{'k' * 64}/all"
ALPHA = TaskConfig(task="alpha")


@pytest.fixture
def store(tmp_path: Path) -> ScoreStore:
    return ScoreStore(tmp_path / ".scores", tmp_path / "run")


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "evals" / "m" / "alpha"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text("{}")
    (folder / "samples_alpha.jsonl").write_text("{}")
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
    assert store.fetch(KEY, ALPHA, target) is None
    store.keep(KEY, ALPHA, scored)
    record, original = store.fetch(KEY, ALPHA, target), ScoreRecord.read(scored, KEY, ALPHA)
    assert original is not None
    assert record is not None
    assert record == original.model_copy(update={"reused": True, "checksum": record.checksum})
    assert record == ScoreRecord.read(target, KEY, ALPHA)
    assert (original.batch_size, original.seconds, original.reused) == (4, 1.5, False)
    assert (target / "samples_alpha.jsonl").exists()
    assert [path.relative_to(store.root) for path in store.root.glob("*/*")] == [Path(KEY)]


@pytest.mark.parametrize("text", ["", "{", '{"key": "another"}'])
def test_a_damaged_record_counts_as_missing_and_is_replaced(
    store: ScoreStore, scored: Path, target: Path, text: str
) -> None:
    store.keep(KEY, ALPHA, scored)
    (store.root / KEY / "score.json").write_text(text)
    assert store.fetch(KEY, ALPHA, target) is None
    assert not target.exists()
    store.keep(KEY, ALPHA, scored)
    assert store.fetch(KEY, ALPHA, target) is not None


def _edit(record: Path, **entries: object) -> None:
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "score": {**content["score"], **entries}}))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: _edit(folder / "score.json", value=7.5), "7.5 is no value of acc, which is between 0 and 1"),
        (lambda folder: _edit(folder / "score.json", value=-0.01), "-0.01 is no value of acc"),
        (lambda folder: _edit(folder / "score.json", metric="f1,none"), "a score of f1,none and not of acc,none"),
        (lambda folder: _edit(folder / "score.json", stderr=-1), "it is no record of a score"),
        (lambda folder: _edit(folder / "score.json", more=1), "it is no record of a score"),
        (lambda folder: (folder / "score.json").write_text("[" * 100_000), "it is no record of a score"),
        (lambda folder: (folder / "score.json").write_text(" " * 2**21), "is longer than 1 MB"),
        (lambda folder: (folder / "results.json").unlink(), "results.json or the samples are missing"),
        (lambda folder: (folder / "samples_alpha.jsonl").unlink(), "results.json or the samples are missing"),
        (lambda folder: _edit(folder / "score.json", value=0.6), "it was changed after it was written"),
        (lambda folder: (folder / "samples_alpha.jsonl").write_text("[]"), "it was changed after it was written"),
        (lambda folder: (folder / "answers.parquet").write_text("other"), "it was changed after it was written"),
        (lambda folder: os.mkfifo(folder / "pipe"), "pipe is neither a file nor a folder"),
        (lambda folder: (folder / "zero").symlink_to("/dev/zero"), "zero is neither a file nor a folder"),
    ],
)
def test_a_bad_record_is_ignored_with_a_warning_and_not_copied(
    *,
    spoil: Callable[[Path], object],
    reason: str,
    store: ScoreStore,
    scored: Path,
    target: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store.keep(KEY, ALPHA, scored)
    spoil(store.root / KEY)
    with caplog.at_level("WARNING", "evolve.run"):
        assert store.fetch(KEY, ALPHA, target) is None
    assert reason in caplog.text
    assert not target.exists()
    assert ScoreRecord.read(scored, KEY, ALPHA) is not None


@pytest.mark.parametrize(
    ("task", "metric", "value", "fits"),
    [
        ("a", "acc,none", 1.0, True),
        ("a", "acc_norm,none", 1.1, False),
        ("a", "exact_match,strict-match", 100.0, False),
        ("a", "f1,none", 45.0, False),
        ("squadv2", "f1,none", 45.0, True),
        ("a", "mcc,none", -1.0, True),
        ("a", "mcc,none", -1.1, False),
        ("a", "word_perplexity,none", 1e6, True),
        ("a", "byte_perplexity,none", -1.0, False),
        ("a", "bleu,none", 99.0, True),
        ("a", "bleu,none", 101.0, False),
        ("a", "own,none", -1e9, True),
        ("a", "own,none", float("inf"), False),
    ],
)
def test_the_range_of_a_metric(*, task: str, metric: str, value: float, fits: bool) -> None:
    assert (impossible(TaskConfig(task=task, metric=metric), value) is None) is fits


def test_a_store_that_cannot_be_written_is_ignored(store: ScoreStore, scored: Path) -> None:
    store.root.write_text("a file where the folder should be")
    store.keep(KEY, ALPHA, scored)
    store.tidy()


def test_a_file_that_disappears_while_it_is_copied_is_ignored(store: ScoreStore, scored: Path, target: Path) -> None:
    store.keep(KEY, ALPHA, scored)
    (store.root / KEY / "missing").symlink_to("nowhere")
    assert store.fetch(KEY, ALPHA, target) is None
    assert not target.exists()


def test_a_record_without_a_checksum_is_one_of_an_older_version(store: ScoreStore, scored: Path, target: Path) -> None:
    content = json.loads((scored / "score.json").read_text())
    del content["checksum"]
    (scored / "score.json").write_text(json.dumps(content))
    store.keep(KEY, ALPHA, scored)
    assert store.fetch(KEY, ALPHA, target) is not None


def test_only_own_leftovers_are_deleted(store: ScoreStore, tmp_path: Path) -> None:
    other = ScoreStore(store.root, tmp_path / "other")
    for one in (store, other):
        (store.root / f"{one._prefix}key").mkdir(parents=True)
    (store.root / "key" / ".all.77.gone").mkdir(parents=True)
    store.tidy()
    assert {str(path.relative_to(store.root)) for path in store.root.rglob("*")} == {f"{other._prefix}key", "key"}
