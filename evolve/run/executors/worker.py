"""The worker process: carries out one call after another, keeping torch and the engines loaded between them."""

from __future__ import annotations

import errno
import logging
import os
import signal
import threading
import time
import traceback
from multiprocessing import connection, parent_process
from pathlib import Path

from evolve.engines.protocols import Report
from evolve.errors import EvolveError
from evolve.run.executors.base import Call, Done, Failed, Outcome

__all__ = ["serve"]

_LOG = logging.getLogger("evolve.worker")
_REPORT_EVERY_S = 0.1


def serve(pipe: connection.Connection) -> None:
    """Answer what comes through `pipe` until it closes: a `Call`, or the path of the log from now on.

    The process dies with the driver, whatever ends that.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what Ctrl-C means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    threading.Thread(target=_die_with_driver, daemon=True).start()
    _send_output_to(Path(os.devnull))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _be_a_good_guest()
    while True:
        try:
            message: Call | Path = pipe.recv()
        except EOFError:
            return
        if isinstance(message, Path):
            _send_output_to(message)
        else:
            pipe.send(_carry_out(message, pipe))


def _die_with_driver() -> None:
    """A killed driver cannot end its worker, so the worker waits for that itself."""
    driver = parent_process()
    if driver is not None:
        connection.wait([driver.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)


def _send_output_to(log: Path) -> None:
    """What the engines print goes to the log: it would tear the display of the driver."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _be_a_good_guest() -> None:
    """Waiting torch threads that spin make a busy machine many times slower; tokenizers warn after a fork."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _carry_out(call: Call, pipe: connection.Connection) -> Outcome:
    try:
        return Done(call.id, call.function(call.job, _reporter(call, pipe)))
    except Exception as error:  # noqa: BLE001 - the one place where a failed candidate becomes an outcome
        return _failure(call, error)


def _reporter(call: Call, pipe: connection.Connection) -> Report:
    """Passes reports on to the driver, few enough that neither side waits for them."""
    last = 0.0

    def report(words: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _REPORT_EVERY_S or done >= total:
            last = now
            pipe.send((call.id, words, done, total))

    return report


def _failure(call: Call, error: Exception) -> Failed:
    if isinstance(error, EvolveError):
        return Failed(call.id, "error", str(error), error)
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return Failed(call.id, "memory", f"it ran out of memory ({_first_line(error)})")
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return Failed(call.id, "disk", f"the disk is full ({error.strerror}: {error.filename})")
    trace = "".join(traceback.format_exception(error))
    _LOG.error("call %s failed\n%s", call.id, trace)
    return Failed(call.id, "bug", f"{type(error).__name__}: {_first_line(error)}", trace=trace)


def _is_out_of_memory(error: Exception) -> bool:
    """Told by name, so that this module needs no torch: torch.OutOfMemoryError, and allocators that only say it."""
    return type(error).__name__ == "OutOfMemoryError" or "out of memory" in str(error).lower()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0]
