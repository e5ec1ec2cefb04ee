"""The engines: mergekit merges, lm-eval scores, kinship over safetensors, each behind a small protocol.

Importing this package is cheap; the engines load torch and their libraries when they are first called, in a worker.
"""

from __future__ import annotations

from evolve.engines.custom_code import refuse_custom_code
from evolve.engines.devices import device_name
from evolve.engines.evaluation import check_model_class, check_tasks, evaluate
from evolve.engines.kinship import measure
from evolve.engines.merging import check_recipe, merge, rehearse
from evolve.engines.protocols import Engines, InspectJob, InspectResult, Report
from evolve.errors import RecipeError

__all__ = ["REAL", "inspect"]


def inspect(job: InspectJob, report: Report) -> InspectResult:
    """Let mergekit plan a merge by each recipe and lm-eval build the tasks; no weights are read.

    Raises:
        ModelError: A model needs code of its own, which may not run.
        RecipeError: mergekit refuses a recipe.
        TaskError: A task, its metric or its data is wrong, or lm-eval has no such model class.
        ConfigError: There is no such device.
    """
    if not job.trust_remote_code:
        refuse_custom_code(job.models)
    for number, (name, text) in enumerate(job.recipes.items()):
        report(f"checking recipe {name}", number, len(job.recipes) + len(job.tasks))
        try:
            if job.plan:
                rehearse(text, trust_remote_code=job.trust_remote_code)
            else:
                check_recipe(text)
        except RecipeError as error:
            raise RecipeError(f"merge.recipe = {name}: {error}") from error
    report("checking tasks", len(job.recipes), len(job.recipes) + len(job.tasks))
    check_model_class(job.model)
    device_name(job.device)
    return InspectResult(check_tasks(job.tasks, job.task_dirs))


REAL = Engines(merge=merge, evaluate=evaluate, measure=measure, inspect=inspect)
