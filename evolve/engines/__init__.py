"""The engines: mergekit merges, lm-eval scores, kinship over safetensors, each behind a small protocol.

Importing this package is cheap; the engines load torch and their libraries when they are first called, in a worker.
"""

from __future__ import annotations

from evolve.engines.evaluation import check_tasks, evaluate
from evolve.engines.kinship import measure
from evolve.engines.merging import merge, rehearse
from evolve.engines.protocols import Engines, InspectJob, InspectResult, Report

__all__ = ["REAL", "inspect"]


def inspect(job: InspectJob, report: Report) -> InspectResult:
    """Let mergekit plan a merge by each recipe and lm-eval build the tasks; no weights are read.

    Raises:
        RecipeError: mergekit refuses a recipe.
        TaskError: A task, its metric or its data is wrong.
    """
    for number, (name, text) in enumerate(job.recipes.items()):
        report(f"checking recipe {name}", number, len(job.recipes) + len(job.tasks))
        rehearse(text, trust_remote_code=job.trust_remote_code)
    report("checking tasks", len(job.recipes), len(job.recipes) + len(job.tasks))
    return InspectResult(check_tasks(job.tasks, job.task_dirs))


REAL = Engines(merge=merge, evaluate=evaluate, measure=measure, inspect=inspect)
