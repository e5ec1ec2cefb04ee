"""What the executors' tests let workers do."""

from __future__ import annotations

import errno
import os
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


def refuse(job: str, report: Report) -> None:
    raise MergeError(job)


def stumble(job: None, report: Report) -> None:
    raise LookupError("a first line\nand a second")


class OutOfMemoryError(RuntimeError):
    """Has the name of torch's."""


class SafetensorError(Exception):
    """Has the name of safetensors'."""


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
    }
    wrapped = {"wrapped memory": MemoryError(), "wrapped disk": no_room}
    if job in wrapped:
        raise MergeError("mergekit could not merge") from wrapped[job]
    raise errors[job]


def die(job: signal.Signals, report: Report) -> None:
    os.kill(os.getpid(), job)


def leave(job: int, report: Report) -> None:
    sys.exit(job)


def _child(path: Path) -> None:
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    _write(path, child)


def die_with_child(job: Path, report: Report) -> None:
    _child(job)
    os.kill(os.getpid(), signal.SIGKILL)


def sleep_with_child(job: Path, report: Report) -> None:
    _child(job.with_suffix(".child"))
    sleep_and_tell(job, report)


def count(job: int, report: Report) -> None:
    for number in range(1, job + 1):
        report("counting", number, job)


def say(job: str, report: Report) -> None:
    print(job, flush=True)


def tell(job: Path, report: Report) -> None:
    _write(job, os.getpid())


def sleep_and_tell(job: Path, report: Report) -> Any:
    tell(job, report)
    time.sleep(60)


def _write(path: Path, number: int) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(str(number))
    temporary.rename(path)


def temporary_folder(job: None, report: Report) -> str:
    return tempfile.gettempdir()


def fail_to_read(job: None, report: Report) -> None:
    raise MergeError("the checkpoint cannot be loaded") from OSError(errno.ESTALE, "Stale file handle")


def end_softly(job: None, report: Report) -> str:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    return "still here"
