"""Functions that the tests of the executors call."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from evolve.engines.protocols import Report
from evolve.errors import MergeError


def double(job: int, report: Report) -> int:
    return 2 * job


def pid(job: None, report: Report) -> int:
    return os.getpid()


def sleep(job: float, report: Report) -> None:
    time.sleep(job)


def return_device(job: None, report: Report, device: str = "none") -> tuple[str, str | None, bool]:
    """Return the device, the visible GPUs, and whether torch was imported before this call."""
    return device, os.environ.get("CUDA_VISIBLE_DEVICES"), "torch" in sys.modules


def host_only(job: str, report: Report) -> str:
    """Return the job; a TypeError results if a device is given."""
    return job


def refuse(job: str, report: Report) -> None:
    raise MergeError(job)


def raise_lookup_error(job: None, report: Report) -> None:
    raise LookupError("a first line\nand a second")


class OutOfMemoryError(RuntimeError):
    """An error with the name of torch's error."""


class SafetensorError(Exception):
    """An error with the name of the error of safetensors."""


def raise_(job: str, report: Report) -> None:
    no_room = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x")
    errors: dict[str, Exception] = {
        "MemoryError": MemoryError(),
        "torch": OutOfMemoryError("no more"),
        "allocator": RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        "ENOSPC": no_room,
        "EDQUOT": OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "x"),
        "EACCES": OSError(errno.EACCES, os.strerror(errno.EACCES), "x"),
        "safetensors": SafetensorError("I/O error: No space left on device (os error 28)"),
        "sqlite": sqlite3.OperationalError("database or disk is full"),
        "EFBIG": OSError(errno.EFBIG, os.strerror(errno.EFBIG), "x"),
        "safetensors limit": SafetensorError("Error while serializing: I/O error: File too large (os error 27)"),
        "no number": OSError("Error writing bytes to file. Detail: File too large"),
        "other system error": SafetensorError("I/O error: Permission denied (os error 13)"),
    }
    wrapped = {
        "wrapped memory": MemoryError(),
        "wrapped disk": no_room,
        "wrapped limit": SafetensorError("I/O error: File too large (os error 27)"),
    }
    if job in wrapped:
        raise MergeError("mergekit could not merge") from wrapped[job]
    raise errors[job]


def kill_self(job: signal.Signals, report: Report) -> None:
    os.kill(os.getpid(), job)


def exceed_size_limit(job: Path, report: Report) -> None:
    """Write a file beyond the limit of its size; Python ignores the signal, which this process then does not."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    job.write_bytes(b"more than ten bytes")


def exit_with(job: int, report: Report) -> None:
    sys.exit(job)


def _start_child(path: Path) -> None:
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    _write(path, child)


def die_with_child(job: Path, report: Report) -> None:
    _start_child(job)
    os.kill(os.getpid(), signal.SIGKILL)


def sleep_with_child(job: Path, report: Report) -> None:
    _start_child(job.with_suffix(".child"))
    write_pid_and_sleep(job, report)


def count(job: int, report: Report) -> None:
    for number in range(1, job + 1):
        report("counting", number, job)


def print_line(job: str, report: Report) -> None:
    print(job, flush=True)


def write_pid(job: Path, report: Report) -> None:
    _write(job, os.getpid())


def write_pid_and_sleep(job: Path, report: Report) -> Any:
    write_pid(job, report)
    time.sleep(60)


def _write(path: Path, number: int) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(str(number))
    temporary.rename(path)


def temporary_folder(job: None, report: Report) -> str:
    return tempfile.gettempdir()


def fail_to_read(job: None, report: Report) -> None:
    raise MergeError("the checkpoint cannot be loaded") from OSError(errno.ESTALE, "Stale file handle")


def signal_self(job: None, report: Report) -> str:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    return "still running"
