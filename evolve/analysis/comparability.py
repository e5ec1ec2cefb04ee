"""The settings by which runs differ so that their averages and gains cannot be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evolve.config import TaskConfig, item_limit, scoring_settings
from evolve.lineage import FamilyTree

__all__ = ["differing_settings"]

_MISSING = object()
_OF_THE_TASK = frozenset({"metric", "num_fewshot", "fewshot", "limit", "generation_kwargs"})
_OF_THE_RUN = frozenset({"seed", "lm_eval"})


def differing_settings(trees: Mapping[str, FamilyTree]) -> list[str]:
    """Return the keys by which runs differ so that their averages or gains cannot be compared.

    These are everything that decides a score, the weight and direction of each task, the base and the foundations. The
    order of tasks and of foundations does not matter. `lm_eval` is the version of lm-eval.

    Returns:
        Keys as in a configuration, such as `seed` or `evaluation.tasks.gsm8k.num_fewshot`; none if all agree.
    """
    tasks = [{task.task for task in tree.config.evaluation.tasks} for tree in trees.values()]
    shared = set.intersection(*tasks) if tasks else set()
    limited = {task.task for tree in trees.values() for task in tree.config.evaluation.tasks if task.limit is not None}
    runs = [_settings(tree, shared, limited) for tree in trees.values()]
    keys = dict.fromkeys(key for run in runs for key in run)
    return [key for key in keys if any(run.get(key, _MISSING) != runs[0].get(key, _MISSING) for run in runs)]


def _settings(tree: FamilyTree, shared: set[str], limited: set[str]) -> dict[str, Any]:
    """Return the settings of a run to compare, by key; of the tasks only those that all runs have."""
    start, tasks = tree.origin, tree.config.evaluation.tasks
    settings: dict[str, Any] = {
        "base_model": start.base.identity,
        "foundation_models": {entry.identity for entry in start.foundations},
        "evaluation.tasks": {task.task for task in tasks},
    }
    for task in tasks:
        if task.task in shared:
            settings |= _settings_of_task(tree, task, limited)
    return settings


def _settings_of_task(tree: FamilyTree, task: TaskConfig, limited: set[str]) -> dict[str, Any]:
    start = tree.origin
    found = scoring_settings(tree.config, task, versions=start.versions, data=start.data)
    found["limit"] = item_limit(tree.config, task)
    data = found.pop("data")
    prefix = f"evaluation.tasks.{task.task}"
    settings = {
        f"{prefix}.weight": task.weight,
        f"{prefix}.higher_is_better": task.signed_weight > 0,
        f"evaluation.datasets.{task.task}": sorted(
            (name.rpartition("/")[2], digest) for name, digest in data.items() if not name.startswith("task_dirs.")
        ),
        "evaluation.task_dirs": {k: v for k, v in data.items() if k.startswith("task_dirs.")},
    }
    for key, value in found.items():
        if key in _OF_THE_RUN:
            settings[key] = value
        elif key in _OF_THE_TASK and (key != "limit" or task.task in limited):
            settings[f"{prefix}.{key}"] = value
        elif key != "task":
            settings[f"evaluation.{key}"] = value
    return settings
