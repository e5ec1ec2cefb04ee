"""Evaluations, each a folder that is whole or not there, and the store that shares them between runs.

A score is identified by the model's identity and by everything of the evaluation's settings that can alter it, so it
is never computed twice: not in a run, where one was interrupted, nor in another run beside it.
"""

from __future__ import annotations

import hashlib
import json
import logging
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

_LOG = logging.getLogger("evolve.run")
_RECORD = "scores.json"


class EvaluationRecord(BaseModel):
    """What an evaluation came to; kept as `scores.json` beside lm-eval's own results and samples.

    Attributes:
        reused: It was not computed here, but taken from the score store.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    key: str
    scores: dict[str, Score]
    seconds: float
    batch_size: int
    reused: bool = False

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
    """Finished evaluations by key, shared by the runs of one folder; any of it may be deleted at any time.

    It only saves work, and other runs use it at the same time: what goes wrong with it is logged, and never an error
    of the run.

    Args:
        root: Folder of the store.
        run: Folder of the run that uses it.
    """

    def __init__(self, root: Path, run: Path) -> None:
        self.root = root
        self._prefix = f".{hashlib.sha256(str(run).encode()).hexdigest()[:12]}-"

    def fetch(self, key: str, staged: Path) -> EvaluationRecord | None:
        """Copy the evaluation of that key into an empty staging folder, if it is known."""
        kept = self.root / key
        if EvaluationRecord.read(kept, key) is None:
            return None
        try:
            shutil.copytree(kept, staged, dirs_exist_ok=True)
        except OSError as error:
            _LOG.warning("%s: cannot be copied, so the model is scored again (%s)", kept, error)
            shutil.rmtree(staged)
            staged.mkdir()
        return EvaluationRecord.read(staged, key)

    def keep(self, key: str, evaluation: Path) -> None:
        """Copy a published evaluation into the store, if it is not there."""
        if EvaluationRecord.read(self.root / key, key) is not None:
            return
        staged = self.root / f"{self._prefix}{key}"
        try:
            shutil.rmtree(staged, ignore_errors=True)
            shutil.copytree(evaluation, staged)
            fault_point("store.before_rename")
            publish(staged, self.root / key)
            fault_point("store.after_rename")
        except OSError as error:
            _LOG.warning("%s: the scores of %s are not shared (%s)", self.root, evaluation.name, error)
            shutil.rmtree(staged, ignore_errors=True)

    def tidy(self) -> None:
        """Clear what this run left unfinished when it was killed."""
        for pattern in (f"{self._prefix}*", f".{self._prefix}*.gone", ".*.gone"):
            for path in self.root.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)


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
        del task["weight"], task["higher_is_better"]
        task["limit"] = spec.limit
    record: dict[str, Any] = {
        "model": identity,
        "settings": settings,
        "data": data,
        "seed": config.seed,
        "lm_eval": version("lm_eval"),
    }
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
