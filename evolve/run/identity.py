"""Identity is content: hashes of what a run reads."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from evolve.config import Config
from evolve.engines.checkpoints import fingerprint
from evolve.engines.protocols import Report
from evolve.errors import ConfigError
from evolve.run.durable import hash_file

__all__ = ["hash_data", "identity_of"]


def identity_of(folder: Path, report: Report | None = None) -> str:
    """Identity of a foundation: a SHA-256 over the contents of all files that decide what it says."""
    stamps = fingerprint(folder, report=report)
    record = {name: (stamp.size, stamp.sha256) for name, stamp in stamps.items()}
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def hash_data(config: Config) -> dict[str, str]:
    """SHA-256 of each local file that evaluations read, by a name that stays when the folder moves."""
    found: dict[str, str] = {}
    for task, folder in config.evaluation.datasets.items():
        if not folder.is_dir():
            raise ConfigError(
                f"evaluation.datasets.{task} = {folder}: there is no such folder; give one with <split>.jsonl files"
            )
        for path in sorted([*folder.glob("*.jsonl"), *folder.glob("*.parquet")]):
            found[f"{task}/{path.name}"] = hash_file(path)
    for number, folder in enumerate(config.evaluation.task_dirs):
        if not folder.is_dir():
            raise ConfigError(f"evaluation.task_dirs.{number} = {folder}: there is no such folder; give one with tasks")
        for path in sorted(folder.rglob("*")):  # a task may include and read any of them
            if path.is_file() and path.parent.name != "__pycache__":
                found[f"task_dirs.{number}/{path.relative_to(folder).as_posix()}"] = hash_file(path)
    return found
