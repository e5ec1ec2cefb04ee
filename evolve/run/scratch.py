"""Folders for temporary files that do not outlive their process, not even one that was killed.

The process that makes a folder holds a lock on it. The next process on the same host that makes one removes the folders
whose lock is free: their processes have ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evolve.errors import DiskError, RunError, full_disk

__all__ = ["scratch_folder"]


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make an empty folder in the system's folder for temporary files, and remove it at the end.

    Raises:
        RunError: No folder can be made.
    """
    prefix = f"evolve-{socket.gethostname()}-"  # other hosts may share the disk, but not the locks
    try:
        parent = Path(tempfile.gettempdir())
        _remove_abandoned(parent, prefix)
        unlocked = Path(tempfile.mkdtemp(prefix=f".{prefix}", dir=parent))
    except OSError as error:
        kind = RunError if full_disk(error) is None else DiskError
        raise kind(
            f"no temporary folder can be made ({error.strerror or error}); set TMPDIR to a folder with room"
        ) from error
    folder = unlocked.with_name(unlocked.name.removeprefix("."))
    descriptor = os.open(unlocked, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        unlocked.rename(folder)
        yield folder
    finally:
        for path in (unlocked, folder):
            shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove the folders of this user whose process has ended."""
    for path in parent.glob(f"{glob.escape(prefix)}*"):
        with contextlib.suppress(OSError):
            state = path.lstat()
            if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid():
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(descriptor)
