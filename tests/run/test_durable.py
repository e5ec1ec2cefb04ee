"""Files that are either whole or not there, and what the system's errors become."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from evolve.errors import DiskError, RunError
from evolve.run.durable import explained, hash_file, publish, remove, replace_json, replace_text


def test_replace_writes_and_replaces(tmp_path: Path) -> None:
    replace_text(tmp_path / "a", "one")
    replace_text(tmp_path / "a", "zwölf")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "zwölf"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failed_replace_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_text(tmp_path / "a", "old")

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        replace_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        replace_json(tmp_path / "a", {"score": float("nan")})
    assert not list(tmp_path.iterdir())


def test_all_is_synced_before_the_rename_and_the_folders_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staged, final = tmp_path / "staging" / "x", tmp_path / "models" / "x"
    (staged / "deep").mkdir(parents=True)
    (staged / "a").write_text("a")
    (staged / "deep" / "b").write_text("b")
    order: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: order.append(str(Path(f"/proc/self/fd/{fd}").readlink())))
    publish(staged, final)
    before, after = [str(staged / name) for name in ("a", "deep/b", "deep", ".")], ["models", "staging"]
    assert {Path(name) for name in order[:4]} == {Path(name) for name in before}
    assert order[4:] == [str(tmp_path / name) for name in after]
    assert (final / "deep" / "b").read_text() == "b"
    assert not staged.exists()


def test_publish_replaces_what_was_no_result(tmp_path: Path) -> None:
    for name in ("staged", "final"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    publish(tmp_path / "staged", tmp_path / "final")
    assert [path.name for path in (tmp_path / "final").iterdir()] == ["staged"]
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_remove_takes_files_folders_and_links_but_not_what_links_point_to(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    remove(tmp_path / "link")
    assert (tmp_path / "folder" / "file").exists()
    remove(tmp_path / "folder" / "file")
    remove(tmp_path / "folder" / "file")
    (tmp_path / f".folder.{os.getpid()}.gone").mkdir()  # of a process that had our number
    (tmp_path / f".folder.{os.getpid()}.gone" / "old").write_text("")
    remove(tmp_path / "folder")
    assert not list(tmp_path.iterdir())


def test_hash_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert hash_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, DiskError),
        (errno.EDQUOT, DiskError),
        (errno.EFBIG, DiskError),
        (errno.EIO, RunError),
        (errno.EACCES, RunError),
    ],
)
def test_what_the_system_refuses_is_explained(number: int, kind: type[RunError], tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught, explained(tmp_path):
        raise OSError(number, os.strerror(number), "/some/file")
    assert type(caught.value) is kind
    assert f"/some/file: {os.strerror(number)}" in str(caught.value)
    assert f"evolve resume {tmp_path}" in str(caught.value)


def test_a_reader_that_has_gone_is_not_explained(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError), explained(tmp_path):
        raise BrokenPipeError
