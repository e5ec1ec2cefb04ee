"""Checkpoints that evolve made, each with a manifest of its files, and how damage to them is noticed."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from evolve.engines.protocols import MergeResult
from evolve.run.durable import replace_json
from evolve.run.hashes import HashCache

__all__ = ["CheckpointGuard", "Manifest"]

_MANIFEST = "evolve.json"


class Manifest(BaseModel):
    """What a checkpoint is and what files it has; `files` gives size in bytes and SHA-256 by name."""

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
        """Return the manifest of a published checkpoint, or None where there is none of that identity."""
        try:
            manifest = cls.model_validate_json((folder / _MANIFEST).read_bytes())
        except (OSError, ValidationError):
            return None
        return manifest if manifest.identity == identity else None

    def write(self, folder: Path) -> None:
        """Put the manifest into a staging folder."""
        replace_json(folder / _MANIFEST, self.model_dump(mode="json"))


class CheckpointGuard:
    """Tells whether checkpoints are whole; a file is read only where its hash is not cached."""

    def __init__(self, hashes: HashCache) -> None:
        self._hashes = hashes

    def damage(self, folder: Path, identity: str) -> str | None:
        """Return what is wrong with a checkpoint, in a few words; None where it is whole."""
        if not folder.is_dir():
            return "the checkpoint is missing"
        manifest = Manifest.read(folder, identity)
        if manifest is None:
            return "the checkpoint has no manifest that fits"
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
        """Take the hashes of a checkpoint that was verified just now as known."""
        self._hashes.learn({folder / name: sha256 for name, (_, sha256) in manifest.files.items()})
