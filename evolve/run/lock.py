"""The lock of a run folder: one driver at a time.

The operating system locks the file `.lock` and releases it when the process ends. The writer of the journal locks the
journal as well, so that the lock holds where `.lock` was deleted. `driver.json` names the holder, for messages and for
file systems that do not share locks between hosts.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import filelock

from evolve.errors import RunFolderError
from evolve.files import MOST_TEXT, UnreadableFileError, open_regular, read_json
from evolve.run.durable import replace_json
from evolve.run.faults import fault_point

__all__ = ["Holder", "driver_lock", "live_holder", "lock_file"]

_GRACE_S = 0.3  # longer than `live_holder` holds the lock when it tests it


@dataclass(frozen=True)
class Holder:
    """The process that drives a run."""

    host: str
    pid: int
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, started {self.started}"


@contextmanager
def driver_lock(folder: Path, *, force: bool = False) -> Iterator[Holder]:
    """Hold the lock of a run folder.

    Args:
        folder: The run folder, which exists.
        force: Take over the lock of a driver on another host.

    Raises:
        RunFolderError: Another driver holds the lock, or a driver on another host has not released it.
    """
    lock = filelock.FileLock(folder / ".lock", timeout=_GRACE_S)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise _held(folder) from None
    try:
        if not _is_free(folder / "journal.jsonl"):
            raise _held(folder)
        before = _read_holder(folder)
        if before is not None and before.host != socket.gethostname() and not force:
            raise RunFolderError(
                f"{folder}: the run is locked by {before}, which cannot be seen from this host; make sure that the "
                "process has ended, then give --force"
            )
        holder = Holder(socket.gethostname(), os.getpid(), datetime.now(UTC).isoformat(timespec="seconds"))
        replace_json(folder / "driver.json", asdict(holder))
        fault_point("lock.acquired")
        try:
            yield holder
        finally:
            (folder / "driver.json").unlink(missing_ok=True)
    finally:
        lock.release()


def lock_file(file: io.FileIO) -> bool:
    """Lock a file until it is closed; return False if another process has locked it.

    A file system without locks locks nothing; there the lock of the folder has to do.
    """
    end = time.monotonic() + _GRACE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                return True
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        else:
            return True


def live_holder(folder: Path) -> Holder | None:
    """Return the process that drives the run, without waiting; None if there is none."""
    holder = _read_holder(folder)
    if holder is None or holder.host != socket.gethostname():
        return holder
    return None if all(map(_is_free, (folder / ".lock", folder / "journal.jsonl"))) else holder


def _held(folder: Path) -> RunFolderError:
    holder = _read_holder(folder) or "another process"
    return RunFolderError(f"{folder}: the run is being driven by {holder}; wait for it or stop it")


def _is_free(path: Path) -> bool:
    """Return whether no process on this host locks a file; process ids are reused and would not show it."""
    try:
        with open_regular(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except UnreadableFileError:  # no file that a driver made
        return True
    except OSError as error:
        return error.errno == errno.ENOENT
    return True


def _read_holder(folder: Path) -> Holder | None:
    try:
        data = read_json(folder / "driver.json", MOST_TEXT)
        return Holder(host=str(data["host"]), pid=int(data["pid"]), started=str(data["started"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
