"""Hashes of the files of a checkpoint."""

import hashlib
import os
from pathlib import Path

from evolve.engines.checkpoints import FileStamp, content_identity, fingerprint, hash_file
from tests.engines.checkpoints._files import shard, write


def test_the_fingerprint_covers_all_files_that_affect_the_output(tmp_path):
    folder = write(tmp_path / "m")
    kept = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer.model", "generation_config.json"]
    kept += ["chat_template.jinja", "merges.txt", "modeling_x.py", "special_tokens_map.json"]
    left = ["README.md", ".gitattributes", ".hidden.py", "pytorch_model.bin", "other.safetensors", "training_args.json"]
    for name in [*kept[2:], *left]:
        (folder / name).write_text(name)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_text("x")
    (folder / "onnx").mkdir()
    stamps = fingerprint(folder)
    assert list(stamps) == sorted([*kept, "additional_chat_templates/tool.jinja"])
    for name, stamp in stamps.items():
        raw = (folder / name).read_bytes()
        assert stamp == FileStamp(len(raw), hashlib.sha256(raw).hexdigest())


def test_the_fingerprint_of_shards_covers_their_index(tmp_path):
    assert list(fingerprint(shard(tmp_path / "s"))) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]


def test_progress_of_a_fingerprint_ends_at_all_bytes_of_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr("evolve.engines.checkpoints.hashing.CHUNK", 50)
    reports = []
    fingerprint(shard(tmp_path / "s"), report=lambda *args: reports.append(args))
    assert [entry[1] for entry in reports] == sorted(entry[1] for entry in reports)
    assert {entry[2] for entry in reports} == {reports[-1][1]}
    assert len(reports) > 5


def test_files_of_the_hub_cache_are_known_by_their_names(tmp_path):
    snapshot, blobs = write(tmp_path / "snapshots" / "0"), tmp_path / "blobs"
    blobs.mkdir()
    claimed, plain = "a" * 64, "b" * 40
    for file, name in (("model.safetensors", claimed), ("config.json", plain)):
        (snapshot / file).rename(blobs / name)
        (snapshot / file).symlink_to(Path(os.path.relpath(blobs / name, snapshot)))
    reports = []
    stamps = fingerprint(snapshot, report=lambda *args: reports.append(args))
    assert stamps["model.safetensors"] == FileStamp((blobs / claimed).stat().st_size, claimed)
    assert stamps["config.json"].sha256 == hashlib.sha256((blobs / plain).read_bytes()).hexdigest()
    assert reports[-1][1] == reports[-1][2]


def test_a_link_to_anything_else_is_hashed(tmp_path):
    folder, name = write(tmp_path / "m"), "a" * 64
    (folder / "model.safetensors").rename(tmp_path / name)
    (folder / "model.safetensors").symlink_to(tmp_path / name)
    assert fingerprint(folder)["model.safetensors"].sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def test_the_hash_function_can_be_given(tmp_path):
    folder = shard(tmp_path / "s")
    reports = []

    def hash_of(path, advance):
        advance(path.stat().st_size)
        return path.name

    stamps = fingerprint(folder, hash_of=hash_of, report=lambda *args: reports.append(args))
    assert {name: stamp.sha256 for name, stamp in stamps.items()} == {name: name for name in stamps}
    assert reports[-1][1] == reports[-1][2] == sum(stamp.size for stamp in stamps.values())


def test_a_file_is_hashed_with_or_without_progress(tmp_path):
    path, reports = tmp_path / "f", []
    path.write_bytes(b"abc" * 1000)
    assert hash_file(path) == hash_file(path, reports.append) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sum(reports) == 3000


def test_the_identity_of_a_model_is_a_hash_of_its_stamps():
    """Journals keep identities, so this value must never change."""
    stamps = {"model.safetensors": FileStamp(12, "b" * 64), "config.json": FileStamp(3, "a" * 64)}
    assert content_identity(stamps) == content_identity(dict(reversed(stamps.items())))
    assert content_identity(stamps) == "17220286caeb14f546c67ab2d5dbbba34da0d9ba9d22166b7b384bac27014f1e"
