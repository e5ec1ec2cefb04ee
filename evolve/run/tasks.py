"""The tasks of a configuration as jobs of the evaluator, and the key of a score."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from evolve.config import Config, TaskConfig, scoring_settings
from evolve.engines.protocols import TaskSpec

__all__ = ["score_key", "task_specs"]


def task_specs(config: Config) -> tuple[TaskSpec, ...]:
    """Return the task specifications of a configuration."""
    evaluation = config.evaluation
    return tuple(
        TaskSpec(
            task=task.task,
            metric=task.metric,
            num_fewshot=task.num_fewshot,
            limit=task.limit if task.limit is not None else evaluation.limit,
            generation_kwargs=task.generation_kwargs,
            dataset=evaluation.datasets.get(task.task),
        )
        for task in evaluation.tasks
    )


def score_key(identity: str, config: Config, task: TaskConfig, *, lm_eval: str | None, data: Mapping[str, str]) -> str:
    """Return the key of a score: a hash of the model's identity and the settings from `scoring_settings`.

    Args:
        identity: Identity of the model.
        config: The configuration of the run.
        task: One of its tasks.
        lm_eval: Version of lm-eval.
        data: SHA-256 of each local file that evaluations read, by a name that does not depend on its location.
    """
    settings = scoring_settings(config, task, lm_eval=lm_eval, data=data)
    record = {"identity": identity, "settings": settings}
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
