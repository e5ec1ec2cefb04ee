"""The folder of a task's prompts is that of everything that decides them, and of nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from executors import InlineExecutor
from fakes import FAKE, write_family

from evolve.config import load_config
from evolve.engines.protocols import EvaluateJob, EvaluateResult, InspectTasksJob, Report, TaskFacts
from evolve.run.observer import Silent
from evolve.run.session import Session
from evolve.run.tasks import prompts_key


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_family(tmp_path / "family", ("A", "B"))


def key(config: Path, *settings: str, lm_eval: str = "1", data: dict[str, str] | None = None) -> str:
    found = load_config(config, list(settings))
    return prompts_key(found, found.evaluation.tasks[0], versions={"lm_eval": lm_eval}, data=data or {})


@pytest.mark.parametrize(
    "setting",
    [
        "evaluation.tasks=[{task: alpha, metric: 'acc_norm,none'}]",
        "evaluation.tasks=[{task: alpha, limit: 3}]",
        "evaluation.tasks=[{task: alpha, weight: 2}]",
        "evaluation.limit=5",
        "evaluation.model=vllm",
        "evaluation.model_args={dtype: float32}",
        "evaluation.batch_size=2",
    ],
)
def test_settings_of_the_answers_keep_the_prompts(setting: str, config: Path) -> None:
    assert key(config, setting) == key(config)


@pytest.mark.parametrize(
    "setting",
    [
        "evaluation.tasks=[{task: beta}]",
        "evaluation.tasks=[{task: alpha, num_fewshot: 3}]",
        "evaluation.tasks=[{task: alpha, generation_kwargs: {max_gen_toks: 3}}]",
        "evaluation.apply_chat_template=true",
        "seed=1",
    ],
)
def test_settings_of_the_prompts_have_other_prompts(setting: str, config: Path) -> None:
    assert key(config, setting) != key(config)


def test_data_and_the_version_of_lm_eval_have_other_prompts(config: Path) -> None:
    own = {"alpha/test.jsonl": "a"}
    keys = {key(config), key(config, lm_eval="2"), key(config, data=own), key(config, data={"alpha/test.jsonl": "b"})}
    assert len(keys) == 4
    assert key(config, data={**own, "beta/test.jsonl": "c", "model_args.tokenizer/x": "d"}) == key(config, data=own)


def test_all_models_and_runs_get_one_folder_for_each_task_that_is_identified(config: Path, tmp_path: Path) -> None:
    seen: list[dict[str, Path]] = []

    def evaluate(job: EvaluateJob, report: Report, device: str = "auto") -> EvaluateResult:
        seen.append(dict(job.prompts))
        return FAKE.evaluate(job, report, device)

    def inspect(job: InspectTasksJob, report: Report) -> dict[str, TaskFacts]:
        found: Any = FAKE.inspect_tasks(job, report)
        return {**found, "beta": replace(found["beta"], unidentified="its data come from https://x/y")}

    engines = replace(FAKE, evaluate=evaluate, inspect_tasks=inspect)
    settings = load_config(config, ["strategy.max_generations=1"])
    for name in ("one", "two"):
        Session(engines, Silent(), executors=InlineExecutor).run(settings, tmp_path / "runs" / name)
    folder = tmp_path / "runs" / ".prompts"
    assert len(seen) == 6
    assert [(list(found), found.get("alpha", folder / "x").parent) for found in seen[:3]] == [(["alpha"], folder)] * 3
    assert len({found["alpha"] for found in seen if found}) == 1
    assert all(found.keys() <= {"alpha"} for found in seen)
