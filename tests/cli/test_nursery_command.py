"""`evolve nursery`: builds and checks a family, keeps a complete one and refuses a bad one; training is faked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from evolve.cli import building
from evolve.cli.streams import OutputLost
from evolve.config import Config, load_config
from evolve.engines.protocols import EvaluateJob, EvaluateResult, MergeJob, TaskScore
from evolve.nursery import OWN_TASK, Family
from evolve.nursery.family import MANIFEST, UNFINISHED
from evolve.run.executors import Call, Done

ROOT = Path(__file__).parents[2]


class _FakeExecutor:
    """An executor that builds the family in this process, merges nothing and returns fixed scores."""

    jobs: list[Any]
    merge_score = 0.62

    def __init__(self, progress: Callable[..., None], device: str = "auto") -> None:
        self._call: Call | None = None

    def submit(self, call: Call) -> None:
        self.jobs.append(call.job)
        assert call.gpus == isinstance(call.job, MergeJob | EvaluateJob), "engines get a device, training does not"
        self._call = call

    def wait(self, timeout: float) -> Done:
        assert self._call is not None
        call = self._call
        if isinstance(call.job, MergeJob):
            return Done(call.id, None)
        if isinstance(call.job, EvaluateJob):
            return Done(call.id, self._score(call.job))
        return Done(call.id, call.function(call.job, lambda *_: None))

    def _score(self, job: EvaluateJob) -> EvaluateResult:
        own = OWN_TASK.get(job.checkpoint.name)
        scores = {
            spec.task: TaskScore(
                spec.metric, (0.8 if spec.task == own else 0.4) if own else self.merge_score, 0.05, 100
            )
            for spec in job.tasks
        }
        return EvaluateResult(scores=scores, seconds=1.0, batch_size=16)

    def close(self) -> None:
        pass


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch, fake_family: Path, tmp_path: Path) -> type[_FakeExecutor]:
    """Replace training by a copy of the fake family; its manifest has only the seed."""

    def build(directory: Path, *, seed: int, on_progress: object) -> Family:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MANIFEST).write_text(json.dumps({"seed": seed}))
        return family(directory)

    def family(directory: Path) -> Family:
        folders = dict(zip(OWN_TASK, (fake_family.parent / name for name in "ABC"), strict=True))
        specialists = {}
        for name, folder in folders.items():
            specialists[name] = directory / name
            if not specialists[name].exists():
                specialists[name].symlink_to(folder)
        return Family(directory, fake_family.parent / "base", specialists, dict.fromkeys(OWN_TASK.values(), tmp_path))

    def load(directory: Path, *, seed: int | None = None) -> Family | None:
        manifest = directory / MANIFEST
        known = manifest.is_file() and (seed is None or json.loads(manifest.read_text()) == {"seed": seed})
        return family(directory) if known else None

    executor = type("Executor", (_FakeExecutor,), {"jobs": []})
    monkeypatch.setattr(building, "LocalExecutor", executor)
    monkeypatch.setattr(building, "build", build)
    monkeypatch.setattr(building, "load", load)
    return executor


def test_a_family_is_built_and_checked(command, executor, tmp_path):
    answer = command("nursery", tmp_path / "nursery")

    assert answer.code == 0
    assert answer.out.splitlines() == [
        "coreference: 53.3 points (winogrande 80.0, gsm8k 40.0, truthfulqa_mc2 40.0)",
        "arithmetic: 53.3 points (winogrande 40.0, gsm8k 80.0, truthfulqa_mc2 40.0)",
        "facts: 53.3 points (winogrande 40.0, gsm8k 40.0, truthfulqa_mc2 80.0)",
        "arithmetic × coreference: 62.0 points (winogrande 62.0, gsm8k 62.0, truthfulqa_mc2 62.0)",
        "coreference × facts: 62.0 points (winogrande 62.0, gsm8k 62.0, truthfulqa_mc2 62.0)",
        "arithmetic × facts: 62.0 points (winogrande 62.0, gsm8k 62.0, truthfulqa_mc2 62.0)",
    ]
    merges = [job for job in executor.jobs if isinstance(job, MergeJob)]
    assert [[path.name for path in job.parents] for job in merges] == [
        ["arithmetic", "coreference"],
        ["coreference", "facts"],
        ["arithmetic", "facts"],
    ]
    evaluations = [job for job in executor.jobs if isinstance(job, EvaluateJob)]
    assert len(evaluations) == 6
    assert all(spec.dataset is not None and spec.limit == 100 for job in evaluations for spec in job.tasks)
    assert not any(job.output.exists() for job in evaluations)


def test_a_complete_family_is_kept(command, executor, tmp_path):
    command("nursery", tmp_path / "nursery", "--seed", "3")
    executor.jobs.clear()

    for arguments in ([], ["--seed", "3"]):
        answer = command("nursery", tmp_path / "nursery", *arguments)
        assert answer.code == 0
        assert answer.out == f"The family in {tmp_path}/nursery is complete; nothing to do.\n"
    assert not executor.jobs


def test_a_family_of_another_seed_is_not_replaced(command, executor, refused, tmp_path):
    command("nursery", tmp_path / "nursery", "--seed", "3")
    executor.jobs.clear()

    refused(
        *("nursery", tmp_path / "nursery", "--seed", "4"),
        words=(f"{tmp_path}/nursery: ", "another seed than --seed 4", "give another folder"),
    )
    assert not executor.jobs


def test_a_family_that_is_not_usable_is_refused_and_not_loaded_again(command, executor, tmp_path):
    executor.merge_score = 0.5

    answer = command("nursery", tmp_path / "nursery")

    assert answer.code == 1
    assert f"{tmp_path}/nursery: is not a usable test bed: " in answer.err
    assert answer.err.endswith("try another --seed\n")
    assert not (tmp_path / "nursery" / MANIFEST).exists()
    assert (tmp_path / "nursery" / UNFINISHED).exists()
    executor.merge_score = 0.62
    assert command("nursery", tmp_path / "nursery", "--seed", "1").code == 0


@pytest.mark.usefixtures("no_engine")
def test_a_folder_that_cannot_be_used_is_refused(refused, command, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    refused("nursery", tmp_path / "file", words=(f"{tmp_path}/file: is a file", "give a folder"))
    refused("nursery", tmp_path / "file" / "in", words=(f"{tmp_path}/file/in: ", "give another folder"))
    refused("nursery", tmp_path / ("x" * 300), words=("cannot be used", "give another folder"))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    refused("nursery", tmp_path / "closed", words=("cannot be written", f"{tmp_path} is not writable", "another"))
    assert command("nursery", tmp_path / "n", "--seed", "-1").code == 2


@pytest.mark.usefixtures("no_engine")
def test_a_folder_with_other_files_is_refused(refused, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").write_text("mine")
    words = ("is not empty and has no family of `evolve nursery`", "give a new or an empty folder")
    refused("nursery", tmp_path / "work", words=(f"{tmp_path}/work: ", "(thesis.tex)", *words))
    refused("nursery", "/", words=("/: ", *words))
    monkeypatch.chdir(tmp_path / "work")
    refused("nursery", ".", words=(".: ", *words))


@pytest.mark.parametrize("kind", ["empty", "link", "unfinished"])
def test_an_empty_folder_and_its_own_are_used(command, executor, tmp_path, kind):
    folder = tmp_path / "nursery"
    (tmp_path / "place").mkdir()
    if kind == "unfinished":
        (tmp_path / "place" / UNFINISHED).touch()
        (tmp_path / "place" / "notes.txt").touch()
    folder.symlink_to(tmp_path / "place") if kind == "link" else (tmp_path / "place").rename(folder)

    assert command("nursery", folder).code == 0
    assert (folder / MANIFEST).exists()


def test_a_family_that_is_refused_is_marked_even_if_its_scores_cannot_be_printed(
    command, executor, tmp_path, monkeypatch
):
    def lose(_: str) -> None:
        raise OutputLost(BrokenPipeError())

    monkeypatch.setattr(building, "say", lose)
    executor.merge_score = 0.5

    answer = command("nursery", tmp_path / "nursery")

    assert answer.code == 1
    assert "is not a usable test bed" in answer.err
    assert (tmp_path / "nursery" / UNFINISHED).exists()
    executor.merge_score = 0.62
    assert command("nursery", tmp_path / "nursery").code == 0


def test_the_tasks_are_those_of_the_demo():
    raw = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    demo: Config = load_config(ROOT / "configs" / "demo.yaml")

    assert demo.evaluation.tasks == building.TASKS
    assert list(raw["foundation_models"]) == list(OWN_TASK)
