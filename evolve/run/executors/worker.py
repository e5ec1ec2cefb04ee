"""The worker process: carries out one call after another, keeping torch and the engines loaded between them."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing import connection, parent_process
from pathlib import Path

import tqdm

from evolve.engines.protocols import Report
from evolve.errors import EvolveError
from evolve.run.durable import NO_ROOM
from evolve.run.executors.base import Call, Done, Failed, Outcome

__all__ = ["carry_out", "serve"]

_LOG = logging.getLogger("evolve.worker")
_REPORT_EVERY_S = 0.1


def serve(pipe: connection.Connection) -> None:
    """Answer what comes through `pipe` until it closes: a `Call`, or where output and temporary files go from now on.

    The process dies with the driver, whatever ends that, and takes along what it has started itself.
    """
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the driver decides what they mean, also when a whole job is ended
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    threading.Thread(target=_die_with_driver, daemon=True).start()
    _send_output_to(Path(os.devnull))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _be_a_good_guest()
    while True:
        try:
            message: Call | tuple[Path, Path] = pipe.recv()
        except EOFError:
            return
        if isinstance(message, Call):
            pipe.send(carry_out(message, _reporter(message, pipe)))
        else:
            log, scratch = message
            _send_output_to(log)
            tempfile.tempdir = str(scratch)  # whatever a killed worker leaves there is cleared with the folder


def _die_with_driver() -> None:
    """A killed driver cannot end its worker, so the worker waits for that itself."""
    driver = parent_process()
    if driver is not None:
        connection.wait([driver.sentinel])
        os.killpg(0, signal.SIGKILL)


def _send_output_to(log: Path) -> None:
    """What the engines print goes to the log: it would tear the display of the driver."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _be_a_good_guest() -> None:
    """Waiting torch threads that spin make a busy machine many times slower; tokenizers warn after a fork.

    The lock that tqdm makes by default is a semaphore of the system, which outlives a worker that is killed.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tqdm.tqdm.set_lock(threading.RLock())


def carry_out(call: Call, report: Report) -> Outcome:
    """Call the function; whatever it raises becomes an outcome with its cause."""
    try:
        return Done(call.id, call.function(call.job, report))
    except Exception as error:  # noqa: BLE001 - the one place where a failed candidate becomes an outcome
        return _failure(call, error)


def _reporter(call: Call, pipe: connection.Connection) -> Report:
    """Passes reports on to the driver, few enough that neither side waits for them."""
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
    for origin in _origins(error):  # an engine's own error may be the outermost of several
        if _is_out_of_memory(origin):
            return Failed(call.id, "memory", f"it ran out of memory ({_first_line(origin)})")
        if _is_out_of_space(origin):
            return Failed(call.id, "disk", f"the disk is full ({_first_line(origin)})")
    if isinstance(error, EvolveError):
        accident = any(_is_accident(origin) for origin in _origins(error))
        return Failed(call.id, "bug" if accident else "error", str(error), error)
    trace = "".join(traceback.format_exception(error))
    _LOG.error("call %s failed\n%s", call.id, trace)
    return Failed(call.id, "bug", f"{type(error).__name__}: {_first_line(error)}", trace=trace)


def _origins(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, outermost first."""
    seen: set[int] = set()
    origin: BaseException | None = error
    while origin is not None and id(origin) not in seen:
        seen.add(id(origin))
        yield origin
        origin = origin.__cause__ or origin.__context__


def _is_out_of_memory(error: BaseException) -> bool:
    """Told by name, so that this module needs no torch: torch.OutOfMemoryError, and allocators that only say it."""
    if isinstance(error, EvolveError):
        return False
    words = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(phrase in words for phrase in ("out of memory", "can't allocate memory", "cannot allocate memory"))
    )


def _is_out_of_space(error: BaseException) -> bool:
    """An OSError, or what safetensors (Rust) and SQLite say instead of raising one."""
    if isinstance(error, OSError):
        return error.errno in NO_ROOM
    words = str(error).lower()
    return not isinstance(error, EvolveError) and any(
        phrase in words for phrase in ("no space left on device", "disk is full", "disk quota exceeded")
    )


def _is_accident(error: BaseException) -> bool:
    """Whether the machine failed and not the work: a disk, a network file system, a CUDA context."""
    return isinstance(error, OSError) or (isinstance(error, RuntimeError) and "CUDA error" in str(error))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or "no message").splitlines()[0]
