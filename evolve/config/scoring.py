"""What decides a score: the one list that score keys, resuming and comparisons share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evolve.config.evaluation import TaskConfig
from evolve.config.schema import Config

__all__ = ["data_of_task", "scoring_settings"]


def scoring_settings(
    config: Config, task: TaskConfig, *, lm_eval: str | None, data: Mapping[str, str]
) -> dict[str, Any]:
    """Return everything but the model that can alter the score of one task, as JSON values.

    Two models with equal weights and equal settings have equal scores. Where things lie, the device, the batch size
    and a task's weight in the average are not part of it, nor are the other tasks of the run.

    Args:
        config: The configuration of a run.
        task: One of its tasks.
        lm_eval: The version of lm-eval that scores; None where a journal does not say.
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
        "data": data_of_task(data, task.task),
    }


def data_of_task(data: Mapping[str, str], task: str) -> dict[str, str]:
    """Return the files that a task may read: its own data set's, and all of the user's task folders."""
    prefixes = (f"{task}/", "task_dirs.")
    return {name: digest for name, digest in data.items() if name.startswith(prefixes)}
