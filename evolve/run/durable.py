"""Files that are either whole or not there: fsync, then rename; and what the system's errors mean to the user."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evolve.errors import DiskError, RunError
from evolve.run.faults import fault_point

__all__ = [
    "NO_ROOM",
    "explained",
    "hash_file",
    "publish",
    "remove",
    "replace_json",
    "replace_text",
    "sync_folder",
]

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors that say that a disk, a quota or a limit is exhausted."""


@contextmanager
def explained(root: Path) -> Iterator[None]:
    """Turn what the operating system refuses while the run in `root` is driven into `RunError`, which can be resumed.

    A reader of standard output that has gone is no matter of the run, and passes.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        where = error.filename or root
        if error.errno in NO_ROOM:
            raise DiskError(f"{where}: {error.strerror}; make room, then go on with `evolve resume {root}`") from error
        raise RunError(
            f"{where}: {error.strerror or error}; mend that, then go on with `evolve resume {root}`"
        ) from error


def hash_file(path: Path) -> str:
    """SHA-256 of a file's contents, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_text(path: Path, text: str) -> None:
    """Write a text file so that a reader finds the old one or the new one, never a part; OSError where it can't."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fault_point("replace.before_write")
    try:
        with temporary.open("w", encoding="utf-8") as file:
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
    """`replace_text` of indented JSON, in which numbers that are not finite are refused."""
    replace_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def publish(staged: Path, final: Path) -> None:
    """Move a finished staging folder into place: every file and folder in it is synced, then it is renamed.

    What stood at `final` without an event is no result; it is removed first.
    """
    fault_point("publish.before_fsync")
    for root, _, names in os.walk(staged):
        for name in names:
            with (Path(root) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(root))
    fault_point("publish.after_fsync")
    remove(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    staged.rename(final)
    fault_point("publish.after_rename")
    sync_folder(final.parent)
    sync_folder(staged.parent)


def remove(path: Path) -> None:
    """Delete a file or a folder; a folder is renamed first, so that a half-deleted one is never taken for whole."""
    if path.is_dir() and not path.is_symlink():
        doomed = path.with_name(f".{path.name}.{os.getpid()}.gone")
        if doomed.exists():  # of an earlier process with our number
            shutil.rmtree(doomed)
        path.rename(doomed)
        fault_point("remove.after_rename")
        shutil.rmtree(doomed)
    else:
        path.unlink(missing_ok=True)
