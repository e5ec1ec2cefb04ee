"""The cache of file hashes: a file is read once, and again after a change."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from evolve.engines.checkpoints import hash_file
from evolve.errors import InputsChangedError
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


# ------------------------------------------------------------------------------------------------------ changed files


def _rewrite_and_keep_times(path: Path) -> None:
    times = path.stat()
    path.write_bytes(b"CONTENTS")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _replace_by_a_copy(path: Path) -> None:
    shutil.copy2(path, path.with_name("copy")).replace(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "other content": lambda path: path.write_bytes(b"CONTENTS"),
    "other content, times kept": _rewrite_and_keep_times,
    "replaced by a copy": _replace_by_a_copy,
    "touched": Path.touch,
    "missing": Path.unlink,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_is_named(change: str, file: Path, tmp_path: Path) -> None:
    cache, other = HashCache(tmp_path / "hashes.json"), tmp_path / "other"
    other.write_bytes(b"other")
    files = {path: cache.hashed(path) for path in (other, file)}
    assert cache.changed(files) is None
    CHANGES[change](file)
    assert cache.changed(files) == file


@pytest.mark.parametrize("change", ["link", "chmod", "read"])
def test_a_link_or_other_permissions_are_no_change(change: str, file: Path, tmp_path: Path) -> None:
    cache = HashCache(tmp_path / "hashes.json")
    files = {file: cache.hashed(file)}
    if change == "link":
        os.link(file, tmp_path / "link")
    elif change == "chmod":
        file.chmod(0o600)
    else:
        file.read_bytes()
    assert cache.changed(files) is None


def test_a_change_within_the_same_tick_of_the_clock_is_noticed(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = HashCache(tmp_path / "hashes.json")
    monkeypatch.setattr(hashes.time, "time_ns", lambda: file.stat().st_ctime_ns + 1)
    before = cache.hashed(file)
    assert not before.settled
    assert cache.changed({file: before}) is None
    file.write_bytes(b"CONTENTS")
    same_state = replace(before, state=hashes.FileState.of(file))
    assert cache.changed({file: same_state}) == file


def test_a_file_that_changes_while_it_is_read_has_no_hash(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hash_and_change(path: Path, advance: object) -> str:
        found = hash_file(path)
        path.write_bytes(path.read_bytes() + b".")
        return found

    monkeypatch.setattr(hashes, "hash_file", hash_and_change)
    cache = HashCache(tmp_path / "hashes.json")
    with pytest.raises(InputsChangedError, match=f"{file}: changes while it is read"):
        cache.hash_of(file)
    assert not cache.first
    assert not (tmp_path / "hashes.json").exists()


def test_a_file_that_changed_once_while_it_was_read_is_read_again(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hash of the first reading belongs to no state of the file."""

    def hash_and_change_once(path: Path, advance: object) -> str:
        found = hash_file(path)
        if path.read_bytes() == b"contents":
            path.write_bytes(b"CONTENTS")
        return found

    monkeypatch.setattr(hashes, "hash_file", hash_and_change_once)
    hashed = HashCache(tmp_path / "hashes.json").hashed(file)
    assert hashed.sha256 == hashlib.sha256(b"CONTENTS").hexdigest()
    assert hashed.state == hashes.FileState.of(file)


@pytest.mark.parametrize("later", ["this process", "another process"])
def test_a_file_of_the_hub_is_read_after_a_change(later: str, tmp_path: Path) -> None:
    """Its name is its hash, which is no longer true once its content has been changed in place."""
    digest = hashlib.sha256(b"contents").hexdigest()
    blob, link = tmp_path / "blobs" / digest, tmp_path / "snapshot" / "model.safetensors"
    for path in (blob, link):
        path.parent.mkdir()
    blob.write_bytes(b"contents")
    link.symlink_to(blob)
    time.sleep(0.06)
    cache = HashCache(tmp_path / "hashes.json")
    files = {link: cache.hashed(link)}
    assert files[link].sha256 == digest
    _rewrite_and_keep_times(blob)
    if later == "another process":
        cache = HashCache(tmp_path / "hashes.json")
    assert cache.changed(files) == link
    assert cache.hash_of(link) == hashlib.sha256(b"CONTENTS").hexdigest()
