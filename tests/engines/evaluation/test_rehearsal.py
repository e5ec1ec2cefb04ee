"""What two documents cannot decide is no error of a rehearsal."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path

import pytest

from evolve.engines.evaluation import rehearse_evaluation
from evolve.engines.protocols import EvaluateJob, RehearseEvaluationJob, TaskSpec
from evolve.errors import RehearsalError

from . import _world

OWN = TaskSpec("own", "mine,none")
METRIC = "metric_list: [{{metric: mine, aggregation: {}, higher_is_better: true}}]\nprocess_results: !function own.{}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with functions for a task, and five rows for it."""
    _world.write_lines(tmp_path / "test.jsonl", _world.gsm8k_items(5, 0))
    (tmp_path / "own.py").write_text(
        textwrap.dedent(
            """
            def one(doc, results):
                return {"mine": 1.0}

            def none(doc, results):
                return {}

            def other(doc, results):
                return {"other": 1.0}

            def nan(items):
                return float("nan")

            def divided(items):
                return len(items) / sum(item - 1.0 for item in items)
            """
        )
    )
    return tmp_path


def rehearse(folder: Path, model: Path, metric: str) -> None:
    (folder / "own.yaml").write_text(
        f"task: own\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder}/test.jsonl}}}}\n"
        "output_type: multiple_choice\ntest_split: test\ndoc_to_text: '{{question}}'\ndoc_to_choice: ['1', '2']\n"
        f"doc_to_target: 0\n{metric}\n"
    )
    job = EvaluateJob(model, (OWN,), folder / "unused", task_dirs=(folder,))
    rehearse_evaluation(RehearseEvaluationJob(job, {"own": "evaluation.tasks.0"}), _world.silent, "cpu")


@pytest.mark.parametrize(
    ("aggregation", "results"),
    [("!function own.nan", "one"), ("!function own.divided", "one"), ("mean", "none")],
    ids=["not a number", "a division by zero", "no document counts"],
)
def test_a_metric_that_is_not_defined_for_two_documents(
    folder: Path, model: Path, aggregation: str, results: str
) -> None:
    rehearse(folder, model, METRIC.format(aggregation, results))


def test_a_metric_that_the_task_does_not_give(folder: Path, model: Path) -> None:
    metric = "metric_list: [{metric: acc}]\nprocess_results: !function own.other"
    with pytest.raises(RehearsalError, match="gave no metric 'mine,none'"):
        rehearse(folder, model, metric)


@pytest.mark.parametrize("ends", [False, True])
def test_an_added_token_without_a_row(folder: Path, model: Path, tmp_path: Path, *, ends: bool) -> None:
    from transformers import AutoTokenizer

    changed = tmp_path / "model"
    shutil.copytree(model, changed)
    tokenizer = AutoTokenizer.from_pretrained(changed)
    added = {"eos_token": "<image>"} if ends else {"additional_special_tokens": ["<image>"]}
    tokenizer.add_special_tokens(added)
    tokenizer.save_pretrained(changed)
    metric = METRIC.format("mean", "one")
    if not ends:
        rehearse(folder, changed, metric)
        return
    with pytest.raises(RehearsalError, match="gives the token '<image>' the id 400, but its embeddings have only 400"):
        rehearse(folder, changed, metric)
