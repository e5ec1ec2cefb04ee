"""Checkpoints of children, each with a manifest of its files, and how it is noticed that one was damaged."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from evolve.engines.protocols import MergeResult
from evolve.run.durable import hash_file, replace_json

__all__ = ["CheckpointGuard", "Manifest"]

_MANIFEST = "evolve.json"


class Manifest(BaseModel):
    """What a checkpoint is and consists of; `files` gives size in bytes and SHA-256 by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str
    identity: str
    bytes: int
    seconds: float
    files: dict[str, tuple[int, str]]

    @classmethod
    def of(cls, model: str, identity: str, result: MergeResult) -> Manifest:
        """The manifest of an engine's result."""
        return cls(
            model=model,
            identity=identity,
            bytes=result.bytes,
            seconds=result.seconds,
            files={name: tuple(stamp) for name, stamp in result.files.items()},
        )

    @classmethod
    def read(cls, folder: Path, identity: str) -> Manifest | None:
        """The manifest of a published checkpoint, or None where there is none of that identity."""
        try:
            manifest = cls.model_validate_json((folder / _MANIFEST).read_bytes())
        except (OSError, ValidationError):
            return None
        return manifest if manifest.identity == identity else None

    def write(self, folder: Path) -> None:
        """Put the manifest into a staging folder."""
        replace_json(folder / _MANIFEST, self.model_dump(mode="json"))


class CheckpointGuard:
    """Tells whether checkpoints are whole; hashes a file once, and again only when its size or time has changed.

    Args:
        memory: File that keeps the hashes between drivers, so that resuming a run reads no weights again; it may be
            deleted at any time. None keeps them for this driver only.
    """

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        self._hashes: dict[str, str] = {}
        if memory is not None and memory.is_file():
            with contextlib.suppress(OSError, ValueError):
                known = json.loads(memory.read_text(encoding="utf-8"))
                self._hashes = {str(key): str(value) for key, value in known.items()} if isinstance(known, dict) else {}

    def damage(self, folder: Path, identity: str) -> str | None:
        """What is wrong with a child's checkpoint, in a few words; None where it is whole."""
        if not folder.is_dir():
            return "the checkpoint is gone"
        manifest = Manifest.read(folder, identity)
        if manifest is None:
            return "the checkpoint has no manifest that fits"
        for name, (size, sha256) in manifest.files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is gone"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes instead of {size}"
            if self._hash(path) != sha256:
                return f"the contents of {name} have changed"
        return None

    def trust(self, folder: Path, manifest: Manifest) -> None:
        """Take the hashes of a checkpoint that was verified just now as known."""
        self._learn({self._key(folder / name): sha256 for name, (_, sha256) in manifest.files.items()})

    def _hash(self, path: Path) -> str:
        key = self._key(path)
        if key not in self._hashes:
            self._learn({key: hash_file(path)})
        return self._hashes[key]

    def _learn(self, hashes: Mapping[str, str]) -> None:
        self._hashes |= hashes
        if self._memory is not None:
            replace_json(self._memory, self._hashes)

    @staticmethod
    def _key(path: Path) -> str:
        """Changes with the file; the time of change cannot be set back, unlike that of modification."""
        status = path.stat()
        return f"{path} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
