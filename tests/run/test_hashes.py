"""The cache of file hashes: a file is read once, and again after a change."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from evolve.engines.checkpoints import hash_file
from evolve.run import hashes
from evolve.run.hashes import HashCache


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the list of the files that were read, in order."""
    found: list[Path] = []

    def counting(path: Path, advance: object) -> str:
        found.append(path)
        return hash_file(path)

    monkeypatch.setattr(hashes, "hash_file", counting)
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file that was written long enough ago to be cached."""
    path = tmp_path / "file"
    path.write_bytes(b"contents")
    time.sleep(0.06)
    return path


def test_a_file_is_read_once_by_all_processes(file: Path, tmp_path: Path, read: list[Path]) -> None:
    expected = hashlib.sha256(b"contents").hexdigest()
    cache = HashCache(tmp_path / "cache" / "hashes.json")
    assert [cache.hash_of(file), cache.hash_of(file)] == [expected] * 2
    assert HashCache(tmp_path / "cache" / "hashes.json").hash_of(file) == expected
    assert read == [file]


def test_progress_includes_cached_files(file: Path, tmp_path: Path) -> None:
    cache = HashCache(tmp_path / "hashes.json")
    for _ in range(2):
        sizes: list[int] = []
        cache.hash_of(file, sizes.append)
        assert sum(sizes) == len(b"contents")


@pytest.mark.parametrize("change", ["contents", "times kept", "replaced"])
def test_a_changed_file_is_read_again(change: str, file: Path, tmp_path: Path, read: list[Path]) -> None:
    cache, times = HashCache(tmp_path / "hashes.json"), file.stat()
    cache.hash_of(file)
    if change == "replaced":
        (tmp_path / "other").write_bytes(b"CONTENTS")
        (tmp_path / "other").replace(file)
    else:
        file.write_bytes(b"CONTENTS")
    if change == "times kept":
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert cache.hash_of(file) == hashlib.sha256(b"CONTENTS").hexdigest()
    assert len(read) == 2


def test_a_file_that_could_change_within_the_same_tick_of_the_clock_is_not_cached(
    tmp_path: Path, read: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = tmp_path / "new", HashCache(tmp_path / "hashes.json")
    path.write_bytes(b"contents")
    monkeypatch.setattr(hashes.time, "time_ns", lambda: path.stat().st_ctime_ns + 1)
    cache.hash_of(path)
    cache.hash_of(path)
    assert read == [path, path]


def test_verified_hashes_are_cached(file: Path, tmp_path: Path, read: list[Path]) -> None:
    cache = HashCache(tmp_path / "hashes.json")
    cache.learn({file: "0" * 64})
    assert cache.hash_of(file) == "0" * 64
    assert not read


def test_two_processes_keep_the_hashes_of_both(file: Path, tmp_path: Path, read: list[Path]) -> None:
    second = tmp_path / "second"
    second.write_bytes(b"more")
    time.sleep(0.06)
    one, other = HashCache(tmp_path / "hashes.json"), HashCache(tmp_path / "hashes.json")
    one.hash_of(file)
    other.hash_of(second)
    third = HashCache(tmp_path / "hashes.json")
    third.hash_of(file)
    third.hash_of(second)
    assert read == [file, second]


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"a": 1}'])
def test_a_damaged_cache_is_rebuilt(text: str, file: Path, tmp_path: Path) -> None:
    (tmp_path / "hashes.json").write_text(text)
    assert HashCache(tmp_path / "hashes.json").hash_of(file) == hashlib.sha256(b"contents").hexdigest()
    assert hashlib.sha256(b"contents").hexdigest() in json.loads((tmp_path / "hashes.json").read_text()).values()


def test_a_cache_that_cannot_be_written_is_ignored(file: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file where the folder should be")
    assert HashCache(tmp_path / "folder" / "hashes.json").hash_of(file) == hashlib.sha256(b"contents").hexdigest()


def test_the_cache_lies_in_the_users_cache_folder(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOLVE_CACHE_DIR", str(tmp_path / "own"))
    HashCache().hash_of(file)
    assert (tmp_path / "own" / "hashes.json").is_file()
