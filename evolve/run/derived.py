"""A cache of models that are made out of others before a run: merged adapters, and converted weights.

A cached model is named by everything that it is made of. It is made in a staging folder beside it, synced and renamed,
and its manifest lists its files, so that a half-written or damaged one is noticed and made again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import filelock

from evolve.errors import ModelError, RunError
from evolve.run.checkpoints import CheckpointGuard, Manifest
from evolve.run.durable import publish, remove
from evolve.run.executors import Call, Executor, Failed, outcome_of

__all__ = ["DerivedCache", "is_there"]


@dataclass(frozen=True)
class DerivedCache:
    """Models by key, in a folder that the runs beside one another share.

    Attributes:
        root: The folder.
    """

    root: Path
    executor: Executor

    def folder(self, key: str, name: str, call: Callable[[Path], Call]) -> Path:
        """The folder of a model, which is made now unless it is there and whole.

        Args:
            key: A hash of all that the model is made of.
            name: Its name in messages: the key of the configuration.
            call: The work that makes it, given an empty staging folder; its result is a `MergeResult`.

        Raises:
            ModelError: It cannot be made.
            RunError: The worker failed.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.root / f".{key}.lock"):  # another run may be about to make the same
            if CheckpointGuard().damage(self.root / key, key) is not None:
                self._make(key, name, call)
        return self.root / key

    def _make(self, key: str, name: str, call: Callable[[Path], Call]) -> None:
        staged = self.root / f".{key}.staging"
        if staged.exists():
            remove(staged)
        staged.mkdir()
        outcome = outcome_of(self.executor, call(staged))
        if isinstance(outcome, Failed):
            remove(staged)
            if isinstance(outcome.error, ModelError):
                raise ModelError(f"{name}: {outcome.error}")
            raise outcome.error or RunError(f"{name}: {outcome.id} is not done: {outcome.reason}")
        Manifest.of(name.rpartition(".")[2], key, outcome.result).write(staged)
        publish(staged, self.root / key)


def is_there(folder: Path) -> bool:
    """Whether all files of a cached model are there in full length; their contents are looked at with all models'."""
    manifest = Manifest.read(folder, folder.name)
    if manifest is None:
        return False
    paths = {folder / name: size for name, (size, _) in manifest.files.items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())
