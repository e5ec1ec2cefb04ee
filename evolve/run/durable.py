"""Atomic files and folders (fsync, then rename), and messages for errors of the operating system.

Nothing is written or deleted through a link: a file is created under a name that is free, and a link is deleted itself.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from evolve.characters import escaped
from evolve.errors import DiskError, RunError, full_disk, make_room
from evolve.run.faults import fault_point

__all__ = [
    "create_file",
    "explained",
    "publish",
    "remove",
    "replace_json",
    "replace_text",
    "sync_folder",
]


@contextmanager
def explained(root: Path) -> Iterator[None]:
    """Turn an OSError of the run in `root` into a `RunError` with the command that resumes the run."""
    try:
        yield
    except OSError as error:
        where = error.filename or root
        number = full_disk(error)
        if number is not None:
            reason = error.strerror or error
            raise DiskError(f"{where}: {reason}; {make_room(number)}, then run `evolve resume {root}`") from error
        raise RunError(f"{where}: {error.strerror or error}; fix the cause, then run `evolve resume {root}`") from error


def sync_folder(folder: Path) -> None:
    """Sync the entries of a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create_file(path: Path) -> TextIO:
    """Create a text file; raise FileExistsError if there is a file or a link of that name."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    return os.fdopen(descriptor, "w", encoding="utf-8")


def replace_text(path: Path, text: str) -> None:
    """Replace a text file durably and atomically; after an OSError the file is unchanged."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fault_point("replace.before_write")
    try:
        temporary.unlink(missing_ok=True)  # left by an earlier process with the same process id
        with create_file(temporary) as file:
            file.write(text)
            file.flush()
            fault_point("replace.after_write")
            os.fsync(file.fileno())
        fault_point("replace.after_fsync")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    fault_point("replace.after_rename")
    sync_folder(path.parent)


def replace_json(path: Path, data: Any) -> None:
    """Replace a file with indented JSON; raise ValueError if a number is not finite."""
    replace_text(path, escaped(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)) + "\n")


def publish(staged: Path, final: Path) -> None:
    """Move a complete staging folder into place durably, also to another file system.

    Every file and folder in it is synced before the rename. An existing folder at `final` has no event in the
    journal, so it is removed first.
    """
    fault_point("publish.before_fsync")
    _sync_contents(staged)
    fault_point("publish.after_fsync")
    remove(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        staged.rename(final)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _move_across(staged, final)
    fault_point("publish.after_rename")
    sync_folder(final.parent)
    sync_folder(staged.parent)


def _move_across(staged: Path, final: Path) -> None:
    """Copy a folder to a hidden folder beside `final`, sync the copy, rename it, then remove the source."""
    copy = final.with_name(f".{final.name}.{os.getpid()}.moving")
    _delete(copy)  # left by an earlier process with the same process id
    fault_point("move.before_copy")
    try:
        _copy_contents(staged, copy)
        _sync_contents(copy)
    except OSError as error:
        shutil.rmtree(copy, ignore_errors=True)
        if full_disk(error) is not None:  # the error names the source, but the disk of the target is full
            raise OSError(error.errno, error.strerror, str(final.parent)) from error
        raise
    fault_point("move.after_fsync")
    copy.rename(final)
    sync_folder(final.parent)
    fault_point("move.after_rename")
    remove(staged)


def _copy_contents(folder: Path, copy: Path) -> None:
    """Copy a folder with its modification times, which a rename would keep."""
    for root, _, names in os.walk(folder):
        target = copy / Path(root).relative_to(folder)
        target.mkdir()
        for name in names:
            source = Path(root) / name
            shutil.copyfile(source, target / name)
            times = source.stat()
            os.utime(target / name, ns=(times.st_atime_ns, times.st_mtime_ns))
            fault_point("move.after_file")


def _sync_contents(folder: Path) -> None:
    """Sync every file and folder in a folder, and the folder itself."""
    for root, _, names in os.walk(folder):
        for name in names:
            with (Path(root) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(root))


def remove(path: Path) -> None:
    """Delete a file, a link or a folder, if there is one.

    A folder is renamed first, so that a partly deleted one never keeps its name.
    """
    if path.is_dir() and not path.is_symlink():
        doomed = path.with_name(f".{path.name}.{os.getpid()}.gone")
        _delete(doomed)  # left by an earlier process with the same process id
        path = path.rename(doomed)
        fault_point("remove.after_rename")
    _delete(path)


def _delete(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)
