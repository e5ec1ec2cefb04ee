"""Damage to checkpoints is detected, and a file is read only once for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evolve.engines.checkpoints import hash_file
from evolve.engines.protocols import MergeResult
from evolve.run import hashes
from evolve.run.checkpoints import CheckpointGuard, Manifest
from evolve.run.hashes import HashCache


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    for name in ("config.json", "model.safetensors"):
        (path / name).write_bytes(name.encode() * 100)
    files = {p.name: (p.stat().st_size, hash_file(p)) for p in path.iterdir()}
    Manifest.of("model", "identity", MergeResult(bytes=9, seconds=1.5, files=files)).write(path)
    return path


@pytest.fixture
def guard(tmp_path: Path) -> CheckpointGuard:
    return CheckpointGuard(HashCache(tmp_path / "hashes.json"))


def test_an_intact_checkpoint_has_no_damage(folder: Path, guard: CheckpointGuard) -> None:
    assert guard.damage(folder, "identity") is None
    manifest = Manifest.read(folder, "identity")
    assert manifest is not None
    assert (manifest.bytes, manifest.seconds, len(manifest.files)) == (9, 1.5, 2)


def test_each_damage_is_described(folder: Path, guard: CheckpointGuard) -> None:
    weights = folder / "model.safetensors"
    original, times = weights.read_bytes(), weights.stat()
    assert guard.damage(folder, "identity") is None
    assert guard.damage(folder, "another") == "the checkpoint has no valid manifest"
    weights.write_bytes(original[:-1])
    assert (
        guard.damage(folder, "identity")
        == f"model.safetensors has {len(original) - 1} bytes instead of {len(original)}"
    )
    weights.write_bytes(b"X" + original[1:])
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))  # like a copy that keeps times
    assert guard.damage(folder, "identity") == "the contents of model.safetensors have changed"
    weights.unlink()
    assert guard.damage(folder, "identity") == "model.safetensors is missing"
    (folder / "evolve.json").write_text("{")
    assert guard.damage(folder, "identity") == "the checkpoint has no valid manifest"
    assert guard.damage(folder.with_name("none"), "identity") == "the checkpoint is missing"


def test_a_verified_checkpoint_is_not_read(
    folder: Path, guard: CheckpointGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Manifest.read(folder, "identity")
    assert manifest is not None
    guard.trust(folder, manifest)
    monkeypatch.setattr(hashes, "hash_file", lambda path, _: pytest.fail(f"{path} is read"))
    assert guard.damage(folder, "identity") is None
