"""The local executor: one warm worker process on this machine.

The driver does not import torch, a worker that dies costs one call, and a worker that ends frees all its memory.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnProcess
from pathlib import Path

from evolve.errors import make_room
from evolve.run.executors.base import Call, Failed, Outcome, Progress
from evolve.run.executors.worker import serve
from evolve.run.interrupts import STOP_SIGNALS
from evolve.run.scratch import scratch_folder

__all__ = ["LocalExecutor"]

_PATIENCE_S = 5.0


class LocalExecutor:
    """An executor that runs one call at a time in a worker process.

    The first call starts the worker, and so does the first call after the worker has ended. Until `redirect` is called,
    the worker's temporary files lie in a folder that `close` and `abandon` remove, even if the worker was killed.

    Args:
        progress: Listener to the progress of calls; called from within `wait`.
        device: The torch device of the worker: `auto`, `cpu`, `cuda` or `cuda:<number>`.
    """

    def __init__(self, progress: Progress, device: str = "auto") -> None:
        self._progress = progress
        self._device = device
        self._paths: tuple[Path, Path] | None = None
        self._scratch = contextlib.ExitStack()
        self._context = multiprocessing.get_context("spawn")
        self._process: SpawnProcess | None = None
        self._pipe: connection.Connection | None = None
        self._call: Call | None = None

    @property
    def capacity(self) -> int:
        """One call, because a merge or an evaluation uses a whole GPU."""
        return 1

    def redirect(self, log: Path, scratch: Path) -> None:
        """Send the output of this worker and of later ones to a file, and their temporary files to a folder."""
        self._paths = (log, scratch)
        if self._pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                self._pipe.send(self._paths)

    def submit(self, call: Call) -> None:
        """Begin a call; raise ValueError if another is in flight or the call needs several GPUs."""
        if self._call is not None:
            raise ValueError(f"call {self._call.id} is in flight")
        if call.gpus > 1:
            raise ValueError(f"call {call.id} needs {call.gpus} GPUs, but a local worker has one")
        self._call = call
        if self._process is None or self._pipe is None or not self._process.is_alive():
            self._start()
        if self._pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # the worker has just died; wait() reports that
                self._pipe.send(call)

    def wait(self, timeout: float) -> Outcome | None:
        """Return the outcome of the call in flight; None if there is none yet."""
        call, pipe, process = self._call, self._pipe, self._process
        if call is None or pipe is None or process is None:
            return None
        ready = connection.wait([pipe, process.sentinel], timeout)
        if pipe in ready:
            try:
                message = pipe.recv()
            except (EOFError, ConnectionResetError):
                return self._died(call, process)
            if isinstance(message, tuple):
                self._progress(*message)
                return None
            self._call = None
            outcome: Outcome = message
            if isinstance(outcome, Failed) and outcome.cause in {"memory", "bug"}:
                self._end(patience=0.0)  # the next attempt starts with all memory free and a new CUDA context
            return outcome
        # Children of a dead worker may keep the pipe and the sentinel open, so check the process itself as well.
        return self._died(call, process) if ready or process.exitcode is not None else None

    def abandon(self) -> None:
        """Kill the worker; its unfinished files stay in the staging folder."""
        self._call = None
        self._end(patience=0.0)
        self._scratch.close()

    def close(self) -> None:
        """End the worker; a call in flight is lost."""
        self._end(patience=_PATIENCE_S if self._call is None else 0.0)
        self._call = None
        self._scratch.close()

    def _start(self) -> None:
        self._end(patience=0.0)
        paths = self._paths or self._make_scratch()
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=serve, args=(theirs, self._device), name="evolve-worker")
        # Start multiprocessing's resource tracker now: starting it unblocks signals. It inherits the block of SIGHUP,
        # which it does not ignore itself, so that it does not end with the terminal.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            resource_tracker.ensure_running()
            # Block signals until `_process` is set, so that a handler can kill the worker. The worker inherits the
            # block, so that it gets no signal before it ignores them.
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            process.start()
            theirs.close()
            self._process, self._pipe = process, ours
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        with contextlib.suppress(BrokenPipeError):  # the worker has just died; wait() reports that
            ours.send(paths)

    def _make_scratch(self) -> tuple[Path, Path]:
        self._scratch.close()
        return Path(os.devnull), self._scratch.enter_context(scratch_folder())

    def _died(self, call: Call, process: SpawnProcess) -> Outcome:
        process.join(_PATIENCE_S)
        code = process.exitcode
        self._call = None
        self._end(patience=0.0)
        if code is not None and code < 0:
            if -code == signal.SIGXFSZ:
                return Failed(call.id, "disk", f"a file reached the limit of its size; {make_room(errno.EFBIG)}")
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            hint = "; the system may have run out of memory" if name == "SIGKILL" else ""
            reason = f"its worker process was killed by {name}{hint}"
        else:
            reason = f"its worker process ended with exit code {code}"
        return Failed(call.id, "died", reason)

    def _end(self, patience: float) -> None:
        """Close the pipe, which ends an idle worker; after `patience` seconds kill it with its children."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            if patience:
                self._process.join(patience)
            if self._process.is_alive():
                self._process.kill()
            if self._process.pid is not None:  # the worker leads its own process group
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            self._process.join()
            self._process.close()
        self._process = self._pipe = None
