"""Atomic files and folders, and messages for errors of the operating system."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from evolve.errors import DiskError, RunError
from evolve.run.durable import explained, publish, remove, replace_json, replace_text
from evolve.run.faults import CROSS_DEVICE_POINTS

_PUBLISH = """
import sys
from pathlib import Path
from evolve.run.durable import publish
publish(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_replace_writes_and_replaces(tmp_path: Path) -> None:
    replace_text(tmp_path / "a", "one")
    replace_text(tmp_path / "a", "zwölf")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "zwölf"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failed_replace_leaves_only_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_contents_are_synced_before_the_rename_and_the_folders_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_publish_replaces_an_existing_folder(tmp_path: Path) -> None:
    for name in ("staged", "final"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    publish(tmp_path / "staged", tmp_path / "final")
    assert [path.name for path in (tmp_path / "final").iterdir()] == ["staged"]
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_remove_deletes_a_link_and_not_its_target(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    remove(tmp_path / "link")
    assert (tmp_path / "folder" / "file").exists()
    remove(tmp_path / "folder" / "file")
    remove(tmp_path / "folder" / "file")
    (tmp_path / f".folder.{os.getpid()}.gone").mkdir()  # left by a process with the same id
    (tmp_path / f".folder.{os.getpid()}.gone" / "old").write_text("")
    remove(tmp_path / "folder")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder on another file system than `tmp_path`."""
    for place in ("/dev/shm", tempfile.gettempdir(), str(Path.cwd())):
        if Path(place).is_dir() and os.access(place, os.W_OK) and Path(place).stat().st_dev != tmp_path.stat().st_dev:
            with tempfile.TemporaryDirectory(prefix="evolve-elsewhere-", dir=place) as folder:
                yield Path(folder)
            return
    pytest.skip("there is no second file system that can be written")


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    """Make a staging folder with files at two depths and an empty folder."""
    folder = tmp_path / "staging" / "x"
    (folder / "deep" / "empty").mkdir(parents=True)
    (folder / "a").write_text("one")
    (folder / "deep" / "b").write_bytes(bytes(range(256)) * 5000)
    os.utime(folder / "a", ns=(10**18, 10**18 + 1))
    return folder


def _contents(folder: Path) -> dict[str, tuple[bytes, int] | None]:
    """Return content and modification time of each file, and None for each folder, by relative path."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None
        for path in folder.rglob("*")
    }


def test_publish_moves_to_another_file_system(staged: Path, elsewhere: Path, tmp_path: Path) -> None:
    expected = _contents(staged)
    (elsewhere / "disk").mkdir()
    (tmp_path / "models").symlink_to(elsewhere / "disk")
    (tmp_path / "models" / "x").mkdir()
    (tmp_path / "models" / "x" / "old").touch()
    publish(staged, tmp_path / "models" / "x")
    assert _contents(elsewhere / "disk" / "x") == expected
    assert [path.name for path in (elsewhere / "disk").iterdir()] == ["x"]
    assert not list((tmp_path / "staging").iterdir())


def test_a_copy_to_another_file_system_is_synced_before_its_rename(
    staged: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink()))
    publish(staged, elsewhere / "x")
    copy = elsewhere / f".x.{os.getpid()}.moving"
    names = (".", "a", "deep", "deep/b", "deep/empty")
    assert {path for path in synced if copy in (path, *path.parents)} == {copy / name for name in names}
    assert synced.index(elsewhere) > max(number for number, path in enumerate(synced) if copy in path.parents)


@pytest.mark.parametrize(
    "point", [*CROSS_DEVICE_POINTS, "move.after_file:2", "publish.after_fsync", "publish.after_rename"]
)
def test_a_kill_during_a_move_leaves_the_complete_folder_or_none(point: str, staged: Path, elsewhere: Path) -> None:
    expected, final = _contents(staged), elsewhere / "x"
    killed = subprocess.run(
        [sys.executable, "-c", _PUBLISH, staged, final], env={**os.environ, "EVOLVE_FAULT": point}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    leftovers = [path for path in elsewhere.iterdir() if path != final]
    if final.exists():
        assert _contents(final) == expected
        assert not leftovers
        return
    assert _contents(staged) == expected
    assert all(path.match(".x.*.moving") for path in leftovers)
    for path in leftovers:
        remove(path)
    publish(staged, final)
    assert _contents(final) == expected
    assert [path.name for path in elsewhere.iterdir()] == ["x"]


def test_leftovers_of_an_earlier_process_with_the_same_id_are_replaced(staged: Path, elsewhere: Path) -> None:
    leftovers = elsewhere / f".x.{os.getpid()}.moving"
    leftovers.mkdir()
    (leftovers / "old").touch()
    expected = _contents(staged)
    publish(staged, elsewhere / "x")
    assert _contents(elsewhere / "x") == expected


def test_a_full_disk_of_the_target_is_named_and_its_copy_is_cleared(
    staged: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copyfile = shutil.copyfile

    def fill(source: Path, target: Path) -> None:
        copyfile(source, target)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))

    monkeypatch.setattr(shutil, "copyfile", fill)
    with pytest.raises(OSError, match="No space left") as caught:
        publish(staged, elsewhere / "x")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(elsewhere))
    assert not list(elsewhere.iterdir())
    assert staged.exists()


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
def test_an_error_of_the_system_names_the_file_and_the_command_to_resume(
    number: int, kind: type[RunError], tmp_path: Path
) -> None:
    with pytest.raises(RunError) as caught, explained(tmp_path):
        raise OSError(number, os.strerror(number), "/some/file")
    assert type(caught.value) is kind
    assert f"/some/file: {os.strerror(number)}" in str(caught.value)
    assert f"evolve resume {tmp_path}" in str(caught.value)
