"""The settings that decide a score: one list for cache keys, for resuming and for comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evolve.config.arguments import changed_arguments
from evolve.config.evaluation import TaskConfig
from evolve.config.schema import Config

__all__ = ["ARGUMENT_FILES", "item_limit", "prompt_settings", "scoring_settings"]

ARGUMENT_FILES = "model_args."
"""Beginning of the names of the files that the model arguments name."""

_OF_ANSWERS = {"metric", "model", "model_args", "prefix_sharing"}
"""Scoring settings that do not change a prompt."""

_SHARING = 1
"""Version of the way in which prefixes are shared; a new one where answers may differ by more than rounding."""


def scoring_settings(
    config: Config, task: TaskConfig, *, versions: Mapping[str, str], data: Mapping[str, str]
) -> dict[str, Any]:
    """Return everything that can change a model's answer to an item of one task, and its value, as JSON values.

    Models with equal weights, equal settings and equal items have equal scores; which items are answered is not part of
    the settings (see `item_limit`). Files and folders that the model arguments name are
    part of them by their content. The device, the batch size, the weight of the task in the average and the other
    tasks are not part of them.

    Args:
        config: The configuration of a run.
        task: One of its tasks.
        versions: Versions of lm-eval and transformers as the journal has them.
        data: SHA-256 of each local file that evaluations read, by `<task>/<file>`, `<task>/reads/<path>`,
            `task_dirs.<n>/<file>` or `model_args.<key>/<file>`; and by `<task>/revision` the commit of data from the
            Hub.
    """
    evaluation = config.evaluation
    files = _files_of_arguments(data)
    settings = {
        "task": task.task,
        "metric": task.metric,
        "num_fewshot": task.num_fewshot,
        "generation_kwargs": task.generation_kwargs,
        "model": evaluation.model,
        "model_args": changed_arguments(
            evaluation.model_args, lambda key, value: {"files": files[key]} if key in files else value
        ),
        "apply_chat_template": evaluation.apply_chat_template,
        "fewshot_as_multiturn": evaluation.fewshot_as_multiturn,
        "seed": config.seed,
        "lm_eval": versions.get("lm_eval"),
        "data": _data_of_task(data, task.task),
    }
    # Settings of later versions of evolve are left out where they change nothing, so that older scores keep their key.
    if task.fewshot != "sampled":
        settings["fewshot"] = task.fewshot
    if evaluation.shares_prefixes:
        settings["prefix_sharing"] = {"version": _SHARING, "transformers": versions.get("transformers")}
    return settings


def prompt_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of `scoring_settings` that can change the prompts of a task: all but how they are answered."""
    return {name: value for name, value in settings.items() if name not in _OF_ANSWERS}


def item_limit(config: Config, task: TaskConfig) -> int | None:
    """Return how many first items of a task a run answers; None for all."""
    return task.limit if task.limit is not None else config.evaluation.limit


def _files_of_arguments(data: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the hashes of the files that the model arguments name, by the key of the argument."""
    found: dict[str, dict[str, str]] = {}
    for name, digest in data.items():
        if name.startswith(ARGUMENT_FILES):
            key, _, file = name.removeprefix(ARGUMENT_FILES).partition("/")
            found.setdefault(key, {})[file] = digest
    return found


def _data_of_task(data: Mapping[str, str], task: str) -> dict[str, str]:
    """Return the files that a task may read: its own data, and everything in the task folders."""
    prefixes = (f"{task}/", "task_dirs.")
    return {name: digest for name, digest in data.items() if name.startswith(prefixes)}
