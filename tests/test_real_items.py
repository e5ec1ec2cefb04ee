"""The real items of the three benchmarks, scored with the real task definitions on a nursery model."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolve.engines.evaluation import evaluate, inspect_tasks
from evolve.engines.protocols import EvaluateJob, InspectTasksJob, TaskSpec
from evolve.nursery import Family

BENCHMARKS = Path(__file__).parents[2] / "shared" / "benchmarks"
FOLDERS = {"winogrande": "winogrande", "gsm8k": "gsm8k", "truthfulqa_mc2": "truthfulqa"}
METRICS = {"winogrande": "acc,none", "gsm8k": "exact_match,strict-match", "truthfulqa_mc2": "acc,none"}
SHOTS = {"winogrande": 5, "gsm8k": 5, "truthfulqa_mc2": 0}
LIMIT = 8


def silent(words: str, done: int, total: int) -> None:
    pass


@pytest.mark.benchmarks
@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the real benchmark items are not beside the project")
def test_a_nursery_model_is_scored_on_slices_of_the_real_items(family: Family, tmp_path: Path) -> None:
    specs = tuple(
        TaskSpec(
            task,
            METRICS[task],
            SHOTS[task],
            LIMIT,
            {"max_gen_toks": 8} if task == "gsm8k" else {},
            dataset=BENCHMARKS / folder,
        )
        for task, folder in FOLDERS.items()
    )
    facts = inspect_tasks(InspectTasksJob(specs), silent)
    assert [task.documents for task in facts.values()] == [LIMIT] * 3
    job = EvaluateJob(checkpoint=family.base, tasks=specs, output=tmp_path, model_args={"dtype": "float32"})
    result = evaluate(job, silent)
    assert set(result.scores) == set(FOLDERS)
    for score in result.scores.values():
        assert score.samples == LIMIT
        assert 0.0 <= score.value <= 1.0
        assert score.stderr is not None
    # An untrained model solves no real word problem in eight tokens.
    assert result.scores["gsm8k"].value == 0.0
    assert all((tmp_path / task / f"samples_{task}.jsonl").is_file() for task in FOLDERS)
