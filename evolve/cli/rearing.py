"""The command `nursery`: train the tiny family, then let the real engines say whether it is a real test bed."""

from __future__ import annotations

import tempfile
from itertools import combinations
from pathlib import Path

from rich.console import Console

from evolve.cli.display import display
from evolve.cli.working import carry_out
from evolve.engines import REAL, merging
from evolve.engines.protocols import EvaluateJob, EvaluateResult, MergeJob, Report, TaskSpec
from evolve.errors import EvolveError
from evolve.nursery import OWN_TASK, Family, build, load, shortfalls
from evolve.run.executors import Executor, LocalExecutor

__all__ = ["rear_family"]

_LIMIT = 100


def rear_family(directory: Path, seed: int) -> None:
    """Build the family in a folder, unless it is there; EvolveError where it is no good test bed."""
    console = Console()
    known = load(directory)
    if known is not None:
        console.print(f"The family in {directory} is there already.", highlight=False, soft_wrap=True, markup=False)
        return
    with display() as watching:
        executor = LocalExecutor(watching.working)
        try:
            family: Family = carry_out(executor, "nursery", _build, (directory.absolute(), seed))
            problems, lines = _examine(executor, family)
        finally:
            executor.close()
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    if problems:
        raise EvolveError(f"{directory}: the family is no good test bed: {'; '.join(problems)}; try another --seed")


def _build(job: tuple[Path, int], report: Report) -> Family:
    directory, seed = job
    return build(directory, seed=seed, on_progress=report)


def _examine(executor: Executor, family: Family) -> tuple[list[str], list[str]]:
    """Score the specialists and their first merges; gives the shortfalls, and the scores in lines."""
    lines, scores, merges = [], {}, {}
    with tempfile.TemporaryDirectory(prefix="evolve-") as scratch:
        for name, path in family.specialists.items():
            scores[name] = _evaluate(executor, family, path, Path(scratch) / f"{name}-scores")
            lines.append(f"{name}: {_line(scores[name])}")
        for a, b in combinations(family.specialists, 2):
            average = {name: sum(scores[name].values()) for name in (a, b)}
            first, second = sorted((a, b), key=lambda name: (-average[name], name))
            child = _merge(executor, family, first, second, Path(scratch))
            found = _evaluate(executor, family, child, Path(scratch) / f"{child.name}-scores")
            merges[a, b] = sum(found.values()) / len(found)
            lines.append(f"{first} × {second}: {_line(found)}")
    return shortfalls(scores, OWN_TASK, merges), lines


def _line(scores: dict[str, float]) -> str:
    tasks = ", ".join(f"{task} {100 * value:.1f}" for task, value in scores.items())
    return f"{100 * sum(scores.values()) / len(scores):.1f} points ({tasks})"


def _merge(executor: Executor, family: Family, first: str, second: str, scratch: Path) -> Path:
    output = scratch / f"{first}-{second}"
    output.mkdir()
    parents = (family.specialists[first], family.specialists[second])
    recipe = merging.render(
        merging.load_template("slerp-gradient"),
        parents=parents,
        base=family.base,
        num_layers=4,
        dtype="bfloat16",
        tokenizer=None,
    )
    carry_out(executor, f"merge {first} × {second}", REAL.merge, MergeJob(recipe, parents, output))
    return output


def _evaluate(executor: Executor, family: Family, checkpoint: Path, output: Path) -> dict[str, float]:
    output.mkdir()
    job = EvaluateJob(
        checkpoint=checkpoint,
        tasks=(
            TaskSpec("winogrande", "acc,none", 5, _LIMIT, dataset=family.datasets["winogrande"]),
            TaskSpec(
                "gsm8k",
                "exact_match,strict-match",
                5,
                _LIMIT,
                {"max_gen_toks": 24},
                dataset=family.datasets["gsm8k"],
            ),
            TaskSpec("truthfulqa_mc2", "acc,none", 0, _LIMIT, dataset=family.datasets["truthfulqa_mc2"]),
        ),
        output=output,
        model_args={"dtype": "float32"},
    )
    result: EvaluateResult = carry_out(executor, f"examine {checkpoint.name}", REAL.evaluate, job)
    return {task: score.value for task, score in result.scores.items()}
