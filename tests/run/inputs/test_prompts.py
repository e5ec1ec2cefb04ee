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
from evolve.errors import InputsChangedError
from evolve.run.observer import Silent
from evolve.run.prompts import share_prompts
from evolve.run.session import Session
from evolve.run.tasks import prompts_key


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_family(tmp_path / "family", ("A", "B"))


def key(config: Path, *settings: str, lm_eval: str = "1", data: dict[str, str] | None = None) -> str:
    found = load_config(config, list(settings))
    return prompts_key(
        found, found.evaluation.tasks[0], versions={"lm_eval": lm_eval, "transformers": "5"}, data=data or {}
    )


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
        "evaluation.prefix_sharing=off",
    ],
)
def test_settings_of_the_answers_keep_the_prompts(setting: str, config: Path) -> None:
    assert key(config, setting) == key(config)


@pytest.mark.parametrize(
    "setting",
    [
        "evaluation.tasks=[{task: beta}]",
        "evaluation.tasks=[{task: alpha, num_fewshot: 3}]",
        "evaluation.tasks=[{task: alpha, fewshot: first_n}]",
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


def test_built_prompts_are_shared_only_after_the_inputs_are_compared(config: Path, tmp_path: Path) -> None:
    """A model that changes during its evaluation stands for any input: nothing that was built meanwhile is kept."""
    runs = tmp_path / "runs"
    weights = config.parent / "A" / "model.safetensors"
    content = weights.read_bytes()

    def evaluate(job: EvaluateJob, report: Report, device: str = "auto") -> EvaluateResult:
        result = FAKE.evaluate(job, report, device)
        for spec in job.tasks:
            (job.output / spec.task / "prompts-a-1.parquet").touch()
        if change:
            weights.write_bytes(content[:-4] + bytes([content[-4] ^ 1, *content[-3:]]))
        return result

    engines = replace(FAKE, evaluate=evaluate)
    settings = load_config(config, ["strategy.max_generations=1"])
    change = True
    with pytest.raises(InputsChangedError):
        Session(engines, Silent(), executors=InlineExecutor).run(settings, runs / "run")
    assert not (runs / ".prompts").exists()
    weights.write_bytes(content)
    change = False
    Session(engines, Silent(), executors=InlineExecutor).resume(runs / "run")
    assert len(list((runs / ".prompts").glob("*/prompts-a-1.parquet"))) == 2
    assert not list((runs / "run").rglob("prompts-*"))


def test_prompts_replace_those_that_did_not_suffice(tmp_path: Path) -> None:
    scored, folder = tmp_path / "scored", tmp_path / ".prompts" / "key"
    folder.mkdir(parents=True)
    scored.mkdir()
    for path in (folder / "prompts-a-1.parquet", folder / "prompts-b-1.parquet", scored / "prompts-a-2.parquet"):
        path.touch()
    share_prompts(scored, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["prompts-a-2.parquet", "prompts-b-1.parquet"]


@pytest.mark.parametrize("obstacle", ["file", "link"])
def test_a_folder_that_cannot_be_used_is_logged(obstacle: str, tmp_path: Path, caplog: Any) -> None:
    scored, folder = tmp_path / "scored", tmp_path / "key"
    scored.mkdir()
    (scored / "prompts-a-2.parquet").touch()
    (tmp_path / "elsewhere").mkdir()
    if obstacle == "file":
        folder.touch()
    else:
        folder.symlink_to(tmp_path / "elsewhere")
    share_prompts(scored, folder)
    assert "prompts are not shared with later runs" in caplog.text
    assert not list(scored.iterdir())
    assert not list((tmp_path / "elsewhere").iterdir())
