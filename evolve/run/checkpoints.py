"""Manifests of the checkpoints that evolve writes, and detection of damage to these checkpoints."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from evolve.engines.protocols import MergeResult
from evolve.files import MOST_RECORD, read_bytes
from evolve.run.durable import replace_json
from evolve.run.hashes import HashCache

__all__ = ["CheckpointGuard", "Manifest"]

_MANIFEST = "evolve.json"


class Manifest(BaseModel):
    """Identity and files of a checkpoint; `files` maps a name to the size in bytes and the SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str
    identity: str
    bytes: int
    seconds: float
    files: dict[str, tuple[int, str]]

    @classmethod
    def of(cls, model: str, identity: str, result: MergeResult) -> Manifest:
        """Return the manifest of an engine's result."""
        return cls(
            model=model,
            identity=identity,
            bytes=result.bytes,
            seconds=result.seconds,
            files={name: tuple(stamp) for name, stamp in result.files.items()},
        )

    @classmethod
    def read(cls, folder: Path, identity: str) -> Manifest | None:
        """Return the manifest of a published checkpoint; None if it is missing, damaged or of another identity."""
        try:
            manifest = cls.model_validate_json(read_bytes(folder / _MANIFEST, MOST_RECORD))
        except (OSError, ValidationError):
            return None
        return manifest if manifest.identity == identity else None

    def write(self, folder: Path) -> None:
        """Write the manifest into a staging folder."""
        replace_json(folder / _MANIFEST, self.model_dump(mode="json"))


class CheckpointGuard:
    """A detector of damaged checkpoints; it reads a file only if the hash of the file is not cached."""

    def __init__(self, hashes: HashCache) -> None:
        self._hashes = hashes

    def damage(self, folder: Path, identity: str) -> str | None:
        """Describe the damage to a checkpoint in a few words; return None if it is intact."""
        if folder.is_symlink() or not folder.is_dir():
            return "the checkpoint is missing"
        manifest = Manifest.read(folder, identity)
        if manifest is None:
            return "the checkpoint has no valid manifest"
        for name, (size, sha256) in manifest.files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes instead of {size}"
            if self._hashes.hash_of(path) != sha256:
                return f"the contents of {name} have changed"
        return None

    def trust(self, folder: Path, manifest: Manifest) -> None:
        """Cache the hashes in the manifest of a checkpoint that has just been verified."""
        self._hashes.learn({folder / name: sha256 for name, (_, sha256) in manifest.files.items()})
