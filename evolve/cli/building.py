"""The command `nursery`: train the tiny family, then let the real engines decide whether it is a usable test bed."""

from __future__ import annotations

import os
from contextlib import closing, suppress
from itertools import combinations
from pathlib import Path

from evolve.cli.display import display
from evolve.cli.output import say
from evolve.cli.streams import OutputLost
from evolve.config import Config, EvaluationConfig, TaskConfig
from evolve.engines import REAL
from evolve.engines.checkpoints import read_layout
from evolve.engines.protocols import EvaluateResult, MergeJob, Report
from evolve.errors import EvolveError, InputError
from evolve.nursery import OWN_TASK, Family, build, load, refuse_foreign, shortfalls
from evolve.nursery.family import MANIFEST, UNFINISHED
from evolve.run.child import Child, load_template
from evolve.run.executors import Call, Executor, LocalExecutor, run_call
from evolve.run.interrupts import Interrupted, raising_signals
from evolve.run.scratch import scratch_folder
from evolve.run.tasks import evaluate_job, task_specs

__all__ = ["TASKS", "build_family"]

TASKS = (
    TaskConfig(task="winogrande", metric="acc,none", num_fewshot=5),
    TaskConfig(task="gsm8k", metric="exact_match,strict-match", num_fewshot=5, generation_kwargs={"max_gen_toks": 24}),
    TaskConfig(task="truthfulqa_mc2", metric="acc,none", num_fewshot=0),
)
"""The tasks of configs/demo.yaml, a file that an installed evolve does not have."""

_LIMIT = 100  # documents of each task; the differences that count are much larger than their standard errors


def build_family(directory: Path, seed: int | None) -> None:
    """Build the family in a folder, unless it is there, and check that it is a usable test bed.

    Args:
        directory: The folder of the family.
        seed: The seed that the family must have; None for any, and for 0 where the family is built.

    Raises:
        InputError: The folder cannot be used, or has a family of another seed.
        EvolveError: The family is not a usable test bed.
    """
    _check_usable(directory)
    if load(directory, seed=seed) is not None:
        say(f"The family in {directory} is complete; nothing to do.")
        return
    if load(directory) is not None:
        raise InputError(f"{directory}: has a family of another seed than --seed {seed}; give another folder")
    try:
        with raising_signals(), display() as watching, closing(LocalExecutor(watching.working)) as executor:
            family: Family = run_call(executor, Call("nursery", _build, (directory.absolute(), seed or 0)))
            problems, lines = _examine(executor, family)
    except Interrupted as interrupted:
        raise interrupted.with_advice(f"{directory} has no complete family, start the command again") from None
    if problems:
        (family.directory / MANIFEST).replace(family.directory / UNFINISHED)  # another build may replace this family
    with suppress(OutputLost):  # the family is there
        for line in lines:
            say(line)
    if problems:
        raise EvolveError(f"{directory}: is not a usable test bed: {'; '.join(problems)}; try another --seed")


def _check_usable(directory: Path) -> None:
    try:
        if directory.exists() and not directory.is_dir():
            raise InputError(f"{directory}: is a file; give a folder for the family")
        refuse_foreign(directory)
        existing = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    except OSError as error:
        raise InputError(f"{directory}: cannot be used ({error.strerror}); give another folder") from None
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{directory}: cannot be written ({existing} is not writable); give another folder")


def _build(job: tuple[Path, int], report: Report) -> Family:
    directory, seed = job
    return build(directory, seed=seed, on_progress=report)


def _examine(executor: Executor, family: Family) -> tuple[list[str], list[str]]:
    """Score the specialists and the merge of each pair; return the reasons to refuse the family, and the scores."""
    lines, scores, merges = [], {}, {}
    with scratch_folder() as scratch:
        for name, path in family.specialists.items():
            scores[name] = _evaluate(executor, family, path, scratch / f"{name}-scores")
            lines.append(f"{name}: {_line(scores[name])}")
        for a, b in combinations(family.specialists, 2):
            first, second = sorted((a, b), key=lambda name: (-_mean(scores[name]), name))
            child = _merge(executor, family, first, second, scratch)
            found = _evaluate(executor, family, child, scratch / f"{child.name}-scores")
            merges[a, b] = _mean(found)
            lines.append(f"{first} × {second}: {_line(found)}")
    return shortfalls(scores, OWN_TASK, merges), lines


def _mean(scores: dict[str, float]) -> float:
    return sum(scores.values()) / len(scores)


def _line(scores: dict[str, float]) -> str:
    tasks = ", ".join(f"{task} {100 * value:.1f}" for task, value in scores.items())
    return f"{100 * _mean(scores):.1f} points ({tasks})"


def _merge(executor: Executor, family: Family, first: str, second: str, scratch: Path) -> Path:
    output = scratch / f"{first}-{second}"
    output.mkdir()
    parents = (family.specialists[first], family.specialists[second])
    child = Child(
        template=load_template("slerp-gradient"),
        parents=parents,
        base=family.base,
        layers=int(read_layout(parents[0]).setting("num_hidden_layers")),
        dtype="bfloat16",
        tokenizer=None,
    )
    run_call(executor, Call(f"merge {first} × {second}", REAL.merge, MergeJob(child.recipe(), parents, output), gpus=1))
    return output


def _evaluate(executor: Executor, family: Family, checkpoint: Path, output: Path) -> dict[str, float]:
    output.mkdir()
    config = Config(
        base_model=str(family.base),
        foundation_models={name: str(path) for name, path in family.specialists.items()},
        evaluation=EvaluationConfig(
            tasks=TASKS, datasets=family.datasets, limit=_LIMIT, model_args={"dtype": "float32"}
        ),
    )
    job = evaluate_job(config, checkpoint=checkpoint, tasks=task_specs(config), output=output)
    call = Call(f"evaluate {checkpoint.name}", REAL.evaluate, job, gpus=1)
    result: EvaluateResult = run_call(executor, call)
    return {task: score.value for task, score in result.scores.items()}
