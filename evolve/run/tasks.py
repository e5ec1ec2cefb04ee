"""The tasks of a configuration as jobs of the evaluator, and the key of a score."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from evolve.config import Config, TaskConfig, scoring_settings
from evolve.engines.protocols import BatchSize, EvaluateJob, TaskSpec

__all__ = ["evaluate_job", "score_key", "task_specs"]


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


def evaluate_job(
    config: Config,
    *,
    checkpoint: Path,
    tasks: Sequence[TaskSpec],
    output: Path,
    batch_size: BatchSize | None = None,
    request_caches: Mapping[str, Path] | None = None,
) -> EvaluateJob:
    """Return the job that scores a checkpoint on some tasks with the settings of a configuration.

    Args:
        config: The configuration, with absolute paths.
        checkpoint: Folder of the model.
        tasks: The tasks to score it on.
        output: An empty staging folder.
        batch_size: Replaces the configured one.
        request_caches: As in `EvaluateJob`.
    """
    evaluation = config.evaluation
    return EvaluateJob(
        checkpoint=checkpoint,
        tasks=tuple(tasks),
        output=output,
        request_caches=request_caches or {},
        model=evaluation.model,
        model_args=evaluation.model_args,
        batch_size=evaluation.batch_size if batch_size is None else batch_size,
        seed=config.seed,
        task_dirs=evaluation.task_dirs,
        apply_chat_template=evaluation.apply_chat_template,
        fewshot_as_multiturn=evaluation.fewshot_as_multiturn,
        trust_remote_code=config.trust_remote_code,
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
