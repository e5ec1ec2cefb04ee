"""The worker process: runs one call after another and keeps torch and the engines loaded between them.

It restricts itself to its device before any call imports torch.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import connection, parent_process
from pathlib import Path

import tqdm

from evolve.engines.devices import restrict_to
from evolve.engines.protocols import Report
from evolve.errors import EvolveError, full_disk, make_room
from evolve.run.executors.base import Call, Done, Failed, Outcome
from evolve.run.interrupts import STOP_SIGNALS
from evolve.run.log import LogFormatter, VisibleText, open_log

__all__ = ["perform", "serve"]

_LOG = logging.getLogger("evolve.worker")
_REPORT_EVERY_S = 0.1


def serve(pipe: connection.Connection, device: str) -> None:
    """Run the calls that arrive through `pipe` until it closes.

    A pair of paths instead of a call redirects the output and the temporary files; the first message is one. If the
    driver ends for any reason, the worker and its children are killed.

    Args:
        pipe: Receives `Call` and pairs of paths; sends progress reports as tuples, and outcomes.
        device: The torch device for the calls: `auto`, `cpu`, `cuda` or `cuda:<number>`.
    """
    os.setpgid(0, 0)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the driver handles them, even if the whole process group gets them
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    threading.Thread(target=_die_with_driver, daemon=True).start()
    _send_output_to(Path(os.devnull))
    _log_to_output()
    _configure_libraries()
    visible = restrict_to(device)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # all three: the driver has closed the pipe
        while True:
            message: Call | tuple[Path, Path] = pipe.recv()
            if isinstance(message, Call):
                pipe.send(perform(message, _reporter(message, pipe), visible))
            else:
                log, scratch = message
                _send_output_to(log)
                tempfile.tempdir = str(scratch)  # the files of a killed worker are deleted with this folder


def _die_with_driver() -> None:
    """Wait for the end of the driver, then kill this process group; a killed driver cannot end its worker."""
    driver = parent_process()
    if driver is not None:
        connection.wait([driver.sentinel])
        os.killpg(0, signal.SIGKILL)


def _send_output_to(log: Path) -> None:
    """Redirect standard output and standard error to a file, so that they do not disturb the display."""
    descriptor = open_log(log)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _log_to_output() -> None:
    """Send the records of all loggers to standard error, and let Python print no control characters."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        raw = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
        setattr(sys, name, VisibleText(raw, encoding="utf-8", line_buffering=True))
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _configure_libraries() -> None:
    """Let idle torch threads sleep, silence tokenizers' warning after a fork, and give tqdm a plain lock.

    Spinning threads make a busy machine many times slower. tqdm's default lock is a system semaphore, which a killed
    worker would leave behind.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tqdm.tqdm.set_lock(threading.RLock())


def perform(call: Call, report: Report, device: str) -> Outcome:
    """Run a call in this process, on a device if it needs one, and turn any error into an outcome with its cause."""
    try:
        if call.gpus:
            return Done(call.id, call.function(call.job, report, device=device))
        return Done(call.id, call.function(call.job, report))
    except Exception as error:  # noqa: BLE001 - the one place where a failed candidate becomes an outcome
        return _failure(call, error)


def _reporter(call: Call, pipe: connection.Connection) -> Report:
    """Return a report that sends progress to the driver at most ten times a second, and always at the end."""
    last = 0.0
    lock = threading.Lock()

    def report(words: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        with lock:
            if now - last >= _REPORT_EVERY_S or done >= total:
                last = now
                pipe.send((call.id, words, done, total))

    return report


def _failure(call: Call, error: Exception) -> Failed:
    for origin in _origins(error):  # an engine may have wrapped the original error
        if _is_out_of_memory(origin):
            return Failed(call.id, "memory", f"it ran out of memory ({_first_line(origin)})")
        number = full_disk(origin)
        if number is not None:
            return Failed(call.id, "disk", f"the disk is full ({_first_line(origin)}); {make_room(number)}")
    if isinstance(error, EvolveError):
        machine_failed = any(_is_machine_failure(origin) for origin in _origins(error))
        return Failed(call.id, "bug" if machine_failed else "error", str(error), error)
    trace = "".join(traceback.format_exception(error))
    _LOG.error("call %s failed\n%s", call.id, trace)
    return Failed(call.id, "bug", f"{type(error).__name__}: {_first_line(error)}", trace=trace)


def _origins(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and the errors that led to it, outermost first."""
    seen: set[int] = set()
    origin: BaseException | None = error
    while origin is not None and id(origin) not in seen:
        seen.add(id(origin))
        yield origin
        origin = origin.__cause__ or origin.__context__


def _is_out_of_memory(error: BaseException) -> bool:
    """Compare the type's name and the message: torch is not imported, and some allocators only give a message."""
    if isinstance(error, EvolveError):
        return False
    words = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(phrase in words for phrase in ("out of memory", "can't allocate memory", "cannot allocate memory"))
    )


def _is_machine_failure(error: BaseException) -> bool:
    """Return whether the machine failed and not the work: a disk, a network file system or a CUDA context."""
    return isinstance(error, OSError) or (isinstance(error, RuntimeError) and "CUDA error" in str(error))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or "no message").splitlines()[0]
