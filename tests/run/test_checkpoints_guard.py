"""Damage to checkpoints is noticed, and no file is read twice for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evolve.engines.protocols import MergeResult
from evolve.run import checkpoints
from evolve.run.checkpoints import CheckpointGuard, Manifest
from evolve.run.durable import hash_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    for name in ("config.json", "model.safetensors"):
        (path / name).write_bytes(name.encode() * 100)
    files = {p.name: (p.stat().st_size, hash_file(p)) for p in path.iterdir()}
    Manifest.of("model", "identity", MergeResult(bytes=9, seconds=1.5, files=files)).write(path)
    return path


def test_a_whole_checkpoint(folder: Path) -> None:
    assert CheckpointGuard().damage(folder, "identity") is None
    manifest = Manifest.read(folder, "identity")
    assert manifest is not None
    assert (manifest.bytes, manifest.seconds, len(manifest.files)) == (9, 1.5, 2)


def test_each_damage_has_its_words(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole, times = weights.read_bytes(), weights.stat()
    guard = CheckpointGuard()
    assert guard.damage(folder, "identity") is None
    assert guard.damage(folder, "another") == "the checkpoint has no manifest that fits"
    weights.write_bytes(whole[:-1])
    assert guard.damage(folder, "identity") == f"model.safetensors has {len(whole) - 1} bytes instead of {len(whole)}"
    weights.write_bytes(b"X" + whole[1:])
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a copy that keeps times would
    assert guard.damage(folder, "identity") == "the contents of model.safetensors have changed"
    weights.unlink()
    assert guard.damage(folder, "identity") == "model.safetensors is gone"
    (folder / "evolve.json").write_text("{")
    assert guard.damage(folder, "identity") == "the checkpoint has no manifest that fits"
    assert guard.damage(folder.with_name("none"), "identity") == "the checkpoint is gone"


def test_a_file_is_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counting(path: Path) -> str:
        read.append(path.name)
        return hash_file(path)

    monkeypatch.setattr(checkpoints, "hash_file", counting)
    guard = CheckpointGuard()
    for _ in range(3):
        assert guard.damage(folder, "identity") is None
    assert sorted(read) == ["config.json", "model.safetensors"]
    trusting = CheckpointGuard()
    manifest = Manifest.read(folder, "identity")
    assert manifest is not None
    trusting.trust(folder, manifest)
    assert trusting.damage(folder, "identity") is None
    assert len(read) == 2


def test_hashes_are_remembered_by_the_next_driver(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "hashes.json"
    assert CheckpointGuard(memory).damage(folder, "identity") is None
    monkeypatch.setattr(checkpoints, "hash_file", lambda path: pytest.fail(f"{path} is read again"))
    assert CheckpointGuard(memory).damage(folder, "identity") is None
    monkeypatch.setattr(checkpoints, "hash_file", lambda path: "other")
    memory.write_text("[")
    assert str(CheckpointGuard(memory).damage(folder, "identity")).endswith("have changed")
