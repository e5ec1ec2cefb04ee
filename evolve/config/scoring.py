"""The settings that decide a score: one list for cache keys, for resuming and for comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evolve.config.evaluation import TaskConfig
from evolve.config.schema import Config

__all__ = ["scoring_settings"]


def scoring_settings(
    config: Config, task: TaskConfig, *, lm_eval: str | None, data: Mapping[str, str]
) -> dict[str, Any]:
    """Return everything except the model that can change the score of one task, as JSON values.

    Models with equal weights and equal settings have equal scores. Paths, the device, the batch size, the weight of the
    task in the average and the other tasks are not part of them.

    Args:
        config: The configuration of a run.
        task: One of its tasks.
        lm_eval: The version of lm-eval; None if a journal does not have it.
        data: SHA-256 of each local file that evaluations read, by `<task>/<file>` or `task_dirs.<n>/<file>`.
    """
    evaluation = config.evaluation
    return {
        "task": task.task,
        "metric": task.metric,
        "num_fewshot": task.num_fewshot,
        "limit": task.limit if task.limit is not None else evaluation.limit,
        "generation_kwargs": task.generation_kwargs,
        "model": evaluation.model,
        "model_args": evaluation.model_args,
        "apply_chat_template": evaluation.apply_chat_template,
        "fewshot_as_multiturn": evaluation.fewshot_as_multiturn,
        "seed": config.seed,
        "lm_eval": lm_eval,
        "data": _data_of_task(data, task.task),
    }


def _data_of_task(data: Mapping[str, str], task: str) -> dict[str, str]:
    """Return the files that a task may read: its own data, and everything in the task folders."""
    prefixes = (f"{task}/", "task_dirs.")
    return {name: digest for name, digest in data.items() if name.startswith(prefixes)}
