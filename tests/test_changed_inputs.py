"""With the real engines: a new run in the same folder scores again only what a changed input may have changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from evolve.nursery import Family
from tests.conftest import Evolve, write_config
from tests.support.recipes import OF_THREE

TASK = """
include: {common}
task: own
metric_list: [{{metric: acc}}]
"""
COMMON = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: !function own_text.text
doc_to_choice: ['yes', 'no']
doc_to_target: '{{{{answer}}}}'
"""


@pytest.fixture
def place(family: Family, tmp_path: Path) -> Path:
    """Make a task whose parts lie outside its folder, a tokenizer, and a third model."""
    outside = tmp_path / "outside"
    for folder in ("outside", "tasks"):
        (tmp_path / folder).mkdir()
    rows = [{"question": f"Is {number} even?", "answer": number % 2} for number in range(8)]
    (outside / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (outside / "own_text.py").write_text("def text(doc):\n    return 'Question: ' + doc['question']\n")
    (outside / "common.yaml").write_text(COMMON.format(data=outside / "rows.jsonl"))
    (tmp_path / "tasks" / "own.yaml").write_text(TASK.format(common=outside / "common.yaml"))
    shutil.copytree(next(iter(family.specialists.values())), outside / "third")
    (outside / "tokenizer").mkdir()
    for path in family.base.glob("*token*"):
        shutil.copy(path, outside / "tokenizer")
    (tmp_path / "three.yaml").write_text(OF_THREE.format(third=outside / "third"))
    return tmp_path


@pytest.fixture
def run(served_evolve: Evolve, family: Family, place: Path) -> Callable[[str], list[dict[str, Any]]]:
    """Return a function that makes a run of two foundations and one child, and returns its evaluations."""
    config = write_config(
        place / "mine.yaml",
        family,
        strategy={"max_generations": 1, "stop_at_kinship": None},
        merge={"recipe": "./three.yaml"},
        evaluation={
            "tasks": [{"task": "own"}, {"task": "winogrande", "num_fewshot": 1, "limit": 4}],
            "datasets": {"winogrande": str(family.datasets["winogrande"])},
            "task_dirs": ["./tasks"],
            "trust_task_code": True,
            "model_args": {"dtype": "float32", "tokenizer": "./outside/tokenizer"},
        },
    )
    raw = yaml.safe_load(config.read_text())
    raw["foundation_models"] = dict(list(raw["foundation_models"].items())[:2])
    config.write_text(yaml.safe_dump(raw))

    def make(name: str) -> list[dict[str, Any]]:
        done = served_evolve("run", config, "--run-dir", place / "runs" / name)
        assert done.returncode == 0, done.stderr
        lines = (place / "runs" / name / "journal.jsonl").read_text().splitlines()
        return [event for line in lines if (event := json.loads(line)["event"])["type"] == "model_evaluated"]

    return make


def _reused(evaluations: list[dict[str, Any]]) -> list[set[str]]:
    return [set(event["reused_tasks"]) for event in evaluations]


def test_what_a_changed_input_may_have_changed_is_scored_again(run, place: Path) -> None:
    first = run("one")
    rows = place / "outside" / "rows.jsonl"
    rows.write_text(rows.read_text().replace('"answer": 0', '"answer": 2').replace('"answer": 1', '"answer": 0'))
    rows.write_text(rows.read_text().replace('"answer": 2', '"answer": 1'))
    weights = place / "outside" / "third" / "model.safetensors"
    save_file({name: value * 1.5 for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    second = run("two")
    assert _reused(second) == [{"winogrande"}, {"winogrande"}, set()]
    for before, after in zip(first[:2], second[:2], strict=True):
        assert after["scores"]["own"]["value"] == pytest.approx(1 - before["scores"]["own"]["value"])
        assert after["scores"]["winogrande"] == before["scores"]["winogrande"]

    (place / "outside" / "tokenizer" / "added.txt").write_text("x")
    assert _reused(run("three")) == [set()] * 3
