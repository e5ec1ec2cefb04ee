"""The tasks of a configuration as jobs of the evaluator, and the key of a score."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from evolve.config import ARGUMENT_FILES, Config, TaskConfig, item_limit, prompt_settings, scoring_settings
from evolve.engines.protocols import BatchSize, EvaluateJob, TaskSpec

__all__ = ["evaluate_job", "prompts_key", "score_key", "task_specs"]


def task_specs(config: Config, data: Mapping[str, str] = MappingProxyType({})) -> tuple[TaskSpec, ...]:
    """Return the task specifications of a configuration; those of a run with the recorded revisions of Hub data."""
    evaluation = config.evaluation
    return tuple(
        TaskSpec(
            task=task.task,
            metric=task.metric,
            num_fewshot=task.num_fewshot,
            first_shots=task.fewshot == "first_n",
            limit=item_limit(config, task),
            generation_kwargs=task.generation_kwargs,
            dataset=evaluation.datasets.get(task.task),
            revision=data.get(f"{task.task}/revision"),
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
    request_caches: Mapping[str, Path] = MappingProxyType({}),
    answers: Mapping[str, tuple[Path, ...]] = MappingProxyType({}),
    prompts: Mapping[str, Path] = MappingProxyType({}),
    reads: Mapping[str, Path] = MappingProxyType({}),
) -> EvaluateJob:
    """Return the job that scores a checkpoint on some tasks with the settings of a configuration.

    Args:
        config: The configuration, with absolute paths.
        checkpoint: Folder of the model.
        tasks: The tasks to score it on.
        output: An empty staging folder.
        batch_size: Replaces the configured one.
        request_caches: As in `EvaluateJob`.
        answers: As in `EvaluateJob`.
        prompts: As in `EvaluateJob`.
        reads: Paths of the recorded files that are in no folder of the configuration, by name.
    """
    evaluation = config.evaluation
    return EvaluateJob(
        checkpoint=checkpoint,
        tasks=tuple(tasks),
        output=output,
        request_caches=dict(request_caches),
        answers=dict(answers),
        prompts=dict(prompts),
        model=evaluation.model,
        model_args=_with_recorded_folders(evaluation.model_args, reads),
        batch_size=evaluation.batch_size if batch_size is None else batch_size,
        seed=config.seed,
        task_dirs=evaluation.task_dirs,
        apply_chat_template=evaluation.apply_chat_template,
        fewshot_as_multiturn=evaluation.fewshot_as_multiturn,
        trust_remote_code=config.trust_remote_code,
        prefix_sharing=evaluation.shares_prefixes,
    )


def _with_recorded_folders(arguments: Mapping[str, Any], reads: Mapping[str, Path]) -> dict[str, Any]:
    """Return model arguments with each Hub id replaced by the folder of the commit with which the run began."""
    folders: dict[str, str] = {}
    for name, path in reads.items():
        if name.startswith(ARGUMENT_FILES):
            key, _, file = name.removeprefix(ARGUMENT_FILES).partition("/")
            if not str(arguments.get(key)).startswith("/"):
                folders[key] = str(path)[: -len(file) - 1]
    return {**arguments, **folders}


def score_key(
    identity: str,
    config: Config,
    task: TaskConfig,
    *,
    versions: Mapping[str, str],
    data: Mapping[str, str],
    items: Mapping[str, Sequence[int]] | None = None,
) -> str:
    """Return the key of a score: `<settings>/<selection>`, its path in the score store.

    The settings are a hash of the model's identity and of `scoring_settings`. The selection says which items are
    answered: `all`, `first-<n>`, or `items-<hash>`.

    Args:
        identity: Identity of the model.
        config: The configuration of the run.
        task: One of its tasks.
        versions: As for `scoring_settings`.
        data: As for `scoring_settings`.
        items: As in `TaskSpec`; None for those of the configuration.
    """
    settings = _hash({"identity": identity, "settings": scoring_settings(config, task, versions=versions, data=data)})
    return f"{settings}/{_selection(item_limit(config, task), items)}"


def prompts_key(config: Config, task: TaskConfig, *, versions: Mapping[str, str], data: Mapping[str, str]) -> str:
    """Return the key of a task's prompts, which are the same for all models; the arguments are those of `score_key`."""
    return _hash(prompt_settings(scoring_settings(config, task, versions=versions, data=data)))


def _selection(limit: int | None, items: Mapping[str, Sequence[int]] | None) -> str:
    if items is not None:
        return f"items-{_hash({name: list(ids) for name, ids in items.items() if ids})}"
    return "all" if limit is None else f"first-{limit}"


def _hash(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
