"""Scores on disk, and the store that shares them between runs.

Each score is a folder that is written atomically. Its key covers the model's identity and everything else that can
alter the score, so that no interrupted run and no other run in the same folder computes it again. Scores that differ
only in their items share a folder of the store, and the answers of one are known to the others.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evolve.config import TaskConfig
from evolve.engines.protocols import ANSWERS_FILE, BatchSize, EvaluateResult
from evolve.files import read_bytes
from evolve.lineage import Score
from evolve.run.claims import Claim, claim
from evolve.run.durable import publish, replace_json
from evolve.run.faults import fault_point
from evolve.run.ranges import impossible

__all__ = ["ScoreRecord", "ScoreStore"]

_LOG = logging.getLogger("evolve.run")
_RECORD = "score.json"
_MOST = 1 << 20  # bytes of a record


class ScoreRecord(BaseModel):
    """The score of one model on one task, kept as `score.json` beside lm-eval's results and samples.

    Attributes:
        key: Key of the score (`evolve.run.tasks.score_key`).
        seconds: Wall time of the task, without loading the model.
        reused: Whether the score was copied from the score store instead of computed in this run.
        checksum: SHA-256 of the other fields and of all files beside the record; None in a record of an older version.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    key: str
    score: Score
    seconds: float = Field(ge=0)
    batch_size: BatchSize
    reused: bool = False
    checksum: str | None = None

    @classmethod
    def of(cls, key: str, task: str, result: EvaluateResult) -> ScoreRecord:
        """Return the record of one task from an engine's result."""
        found = result.scores[task]
        score = Score(metric=found.metric, value=found.value, stderr=found.stderr)
        seconds = result.task_seconds.get(task, result.seconds / len(result.scores))
        return cls(key=key, score=score, seconds=seconds, batch_size=result.batch_size)

    @classmethod
    def read(cls, folder: Path, key: str, task: TaskConfig) -> ScoreRecord | None:
        """Return the record in a folder; None if there is none, or it is of other items.

        One that cannot be used is ignored with a warning.

        Args:
            folder: The folder of the score.
            key: The expected key.
            task: The task as configured.
        """
        record = cls._read(folder, key, task)
        return record if record is not None and record.key == key else None

    @classmethod
    def answers(cls, folder: Path, key: str, task: TaskConfig) -> Path | None:
        """Return the file of answers beside a record that is of a key's settings, whatever its items; None if none is.

        Args:
            folder: The folder of the score.
            key: A key with the expected settings.
            task: The task as configured.
        """
        record = cls._read(folder, key, task)
        file = folder / ANSWERS_FILE
        return file if record is not None and file.is_file() else None

    @classmethod
    def _read(cls, folder: Path, key: str, task: TaskConfig) -> ScoreRecord | None:
        """Return the record in a folder if it is of a key's settings, whatever its items."""
        if not os.path.lexists(folder / _RECORD):
            return None
        try:
            _refuse_special_files(folder)
            record = cls.model_validate_json(read_bytes(folder / _RECORD, _MOST))
            _refuse_misfit(record, folder, key, task)
        except (OSError, ValueError) as error:  # pydantic's error is a ValueError
            reason = "it is no record of a score" if isinstance(error, ValidationError) else error
            _LOG.warning("%s: is ignored, and the model is scored again (%s)", folder, reason)
            return None
        return record

    def write(self, folder: Path) -> ScoreRecord:
        """Write the record with its checksum into a staging folder whose other files are complete, and return it."""
        record = self.model_copy(update={"checksum": self.checksum_in(folder)})
        replace_json(folder / _RECORD, record.model_dump(mode="json"))
        return record

    def checksum_in(self, folder: Path) -> str:
        """Return the checksum of this record and of the other files in a folder."""
        fields = self.model_dump(mode="json", exclude={"checksum"})
        found = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name != _RECORD:
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
                found.update(f"\0{path.relative_to(folder).as_posix()}\0{content}".encode())
        return found.hexdigest()


class ScoreStore:
    """A cache of scores by key, shared by the runs in one folder; it may be deleted at any time.

    The folder of a score is `<settings>/<selection>` in that of the store; see `evolve.run.tasks.score_key`.

    Several runs may use it at the same time. Its errors are logged and never end a run, because it only saves work.

    Args:
        root: Folder of the store.
        run: Folder of the run that uses the store.
    """

    def __init__(self, root: Path, run: Path) -> None:
        self.root = root
        self._prefix = f".{hashlib.sha256(str(run).encode()).hexdigest()[:12]}-"

    def claim(self, keys: Iterable[str]) -> Claim | None:
        """Claim scores that this run is about to compute; return None if another run computes one of them."""
        return claim(self.root / ".locks", keys)

    def fetch(self, key: str, task: TaskConfig, target: Path) -> ScoreRecord | None:
        """Copy the score of a key to a folder that does not exist yet; return None if no usable score is cached."""
        kept = self.root / key
        if ScoreRecord.read(kept, key, task) is None:
            return None
        try:
            shutil.copytree(kept, target)
        except OSError as error:
            _LOG.warning("%s: cannot be copied, so the model is scored again (%s)", kept, error)
            shutil.rmtree(target, ignore_errors=True)
        record = ScoreRecord.read(target, key, task)
        if record is None:
            shutil.rmtree(target, ignore_errors=True)
            return None
        return record.model_copy(update={"reused": True}).write(target)

    def answers(self, key: str, task: TaskConfig) -> tuple[Path, ...]:
        """Return the files of answers of all scores with the settings of a key, whatever their items."""
        folders = sorted(path for path in (self.root / _settings(key)).glob("*") if not path.name.startswith("."))
        found = [ScoreRecord.answers(folder, key, task) for folder in folders]
        return tuple(file for file in found if file is not None)

    def keep(self, key: str, task: TaskConfig, scored: Path) -> None:
        """Copy a published score into the store, unless the store has it."""
        if ScoreRecord.read(self.root / key, key, task) is not None:
            return
        staged = self.root / f"{self._prefix}{key.replace('/', '-')}"
        try:
            shutil.rmtree(staged, ignore_errors=True)
            shutil.copytree(scored, staged)
            fault_point("store.before_rename")
            publish(staged, self.root / key)
            fault_point("store.after_rename")
        except OSError as error:
            _LOG.warning("%s: the score in %s is not shared (%s)", self.root, scored, error)
            shutil.rmtree(staged, ignore_errors=True)

    def tidy(self) -> None:
        """Delete the unfinished copies that this run left when it was killed."""
        for pattern in (f"{self._prefix}*", f".{self._prefix}*.gone", ".*.gone", "*/.*.gone"):
            for path in self.root.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)


def _refuse_special_files(folder: Path) -> None:
    """Raise ValueError if a folder holds a link, a device or a pipe."""
    for path in folder.rglob("*"):
        state = path.lstat()
        if not stat.S_ISREG(state.st_mode) and not stat.S_ISDIR(state.st_mode):
            raise ValueError(f"{path.name} is neither a file nor a folder")


def _settings(key: str) -> str:
    return key.partition("/")[0]


def _refuse_misfit(record: ScoreRecord, folder: Path, key: str, task: TaskConfig) -> None:
    """Raise ValueError if this is the record of another score, or the score is impossible or has no samples."""
    if _settings(record.key) != _settings(key):
        raise ValueError("its key is that of another score")
    if record.score.metric != task.metric:
        raise ValueError(f"it is a score of {record.score.metric} and not of {task.metric}")
    problem = impossible(task, record.score.value)
    if problem is not None:
        raise ValueError(problem)
    if not (folder / "results.json").is_file() or not any(folder.glob("samples_*.jsonl")):
        raise ValueError("results.json or the samples are missing")
    if record.checksum not in {None, record.checksum_in(folder)}:
        raise ValueError("the checksum is another: it was changed after it was written")
