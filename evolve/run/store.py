"""Evaluations, each a folder that is whole or not there, and the store that shares them between runs.

A score is identified by the model's identity and by everything of the evaluation's settings that can alter it, so it
is never computed twice: not in a run, where one was interrupted, nor in another run beside it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from evolve.config import Config
from evolve.engines.protocols import EvaluateResult, TaskSpec
from evolve.lineage import Score
from evolve.run.durable import publish, replace_json
from evolve.run.faults import fault_point

__all__ = ["EvaluationRecord", "ScoreStore", "evaluation_key", "task_specs"]

_RECORD = "scores.json"


class EvaluationRecord(BaseModel):
    """What an evaluation came to; kept as `scores.json` beside lm-eval's own results and samples."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    key: str
    scores: dict[str, Score]
    seconds: float
    batch_size: int

    @classmethod
    def of(cls, key: str, result: EvaluateResult) -> EvaluationRecord:
        """The record of an engine's result."""
        scores = {
            task: Score(metric=score.metric, value=score.value, stderr=score.stderr)
            for task, score in result.scores.items()
        }
        return cls(key=key, scores=scores, seconds=result.seconds, batch_size=result.batch_size)

    @classmethod
    def read(cls, folder: Path, key: str) -> EvaluationRecord | None:
        """The record of a published evaluation, or None where there is none of that key."""
        try:
            record = cls.model_validate_json((folder / _RECORD).read_bytes())
        except (OSError, ValidationError):
            return None
        return record if record.key == key else None

    def write(self, folder: Path) -> None:
        """Put the record into a staging folder."""
        replace_json(folder / _RECORD, self.model_dump(mode="json"))


class ScoreStore:
    """Finished evaluations by key, shared by the runs of one folder; any of it may be deleted at any time."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def fetch(self, key: str, staged: Path) -> EvaluationRecord | None:
        """Copy the evaluation of that key into a staging folder, if it is known."""
        kept = self.root / key
        record = EvaluationRecord.read(kept, key)
        if record is not None:
            shutil.copytree(kept, staged, dirs_exist_ok=True)
        return record

    def keep(self, key: str, evaluation: Path, staged: Path) -> None:
        """Copy a published evaluation into the store, by way of a staging folder on the same disk."""
        if (self.root / key).exists():
            return
        shutil.copytree(evaluation, staged, dirs_exist_ok=True)
        fault_point("store.before_rename")
        publish(staged, self.root / key)
        fault_point("store.after_rename")


def task_specs(config: Config) -> tuple[TaskSpec, ...]:
    """The tasks of a configuration as the evaluator takes them."""
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


def evaluation_key(identity: str, config: Config, data: dict[str, str]) -> str:
    """Identity of a score: the model's, and all settings that can alter it (not device, batch size or weights).

    Args:
        identity: Of the model.
        config: The configuration of the run.
        data: A hash of each local file that the evaluation reads, by a name that does not change when it moves.
    """
    settings = config.evaluation.model_dump(mode="json", exclude={"batch_size", "datasets", "task_dirs", "limit"})
    for task, spec in zip(settings["tasks"], task_specs(config), strict=True):
        del task["weight"]
        task["limit"] = spec.limit
    record: dict[str, Any] = {
        "model": identity,
        "settings": settings,
        "data": data,
        "seed": config.seed,
        "lm_eval": version("lm_eval"),
    }
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
