"""The local executor: one warm worker process on this machine.

The driver stays free of torch, a dead worker costs one call, and memory comes back when the worker ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnProcess
from pathlib import Path

from evolve.run.executors.base import Call, Failed, Outcome, Progress
from evolve.run.executors.worker import serve

__all__ = ["LocalExecutor"]

_SIGNALS = {signal.SIGINT, signal.SIGTERM}
_PATIENCE_S = 5.0


class LocalExecutor:
    """Carries out one call at a time in a worker process, which is started on the first call and after a death.

    Args:
        progress: Hears how far the call is, from within `wait`.
    """

    def __init__(self, progress: Progress) -> None:
        self._home: tuple[Path, Path] | None = None
        self._progress = progress
        self._context = multiprocessing.get_context("spawn")
        self._process: SpawnProcess | None = None
        self._pipe: connection.Connection | None = None
        self._call: Call | None = None

    @property
    def capacity(self) -> int:
        """One call: a merge or an evaluation fills a GPU by itself."""
        return 1

    def settle(self, log: Path, scratch: Path) -> None:
        """Give the worker, and those that follow it, a file for its output and a folder for its temporary files."""
        self._home = (log, scratch)
        if self._pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                self._pipe.send(self._home)

    def submit(self, call: Call) -> None:
        """Begin a call; ValueError while another is in flight."""
        if self._call is not None:
            raise ValueError(f"call {self._call.id} is in flight")
        self._call = call
        if self._process is None or self._pipe is None or not self._process.is_alive():
            self._start()
        if self._pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # the worker died just now; wait() sees it
                self._pipe.send(call)

    def wait(self, timeout: float) -> Outcome | None:
        """The outcome of the call in flight, or None when `timeout` seconds passed without a word from the worker."""
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
                self._end(patience=0.0)  # the next attempt begins with all the memory, and with a sound CUDA context
            return outcome
        # What the worker started may live on and hold both ends of the pipe, so ask for the worker itself as well.
        return self._died(call, process) if ready or process.exitcode is not None else None

    def abandon(self) -> None:
        """Kill the worker; what it had staged is left behind in the staging folder."""
        self._call = None
        self._end(patience=0.0)

    def close(self) -> None:
        """End the worker; a call in flight is lost."""
        self._end(patience=_PATIENCE_S if self._call is None else 0.0)
        self._call = None

    def _start(self) -> None:
        self._end(patience=0.0)
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=serve, args=(theirs,), name="evolve-worker")
        # Starting the tracker of multiprocessing lets signals through, so it comes before they are blocked.
        resource_tracker.ensure_running()
        # The worker is born with the signals blocked, so that no Ctrl-C reaches it before it can ignore them; and one
        # that comes meanwhile finds it known, so that it can be ended.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            process.start()
            theirs.close()
            self._process, self._pipe = process, ours
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        if self._home is not None:
            ours.send(self._home)

    def _died(self, call: Call, process: SpawnProcess) -> Outcome:
        process.join(_PATIENCE_S)
        code = process.exitcode
        self._call = None
        self._end(patience=0.0)
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            hint = "; the system may have run out of memory" if name == "SIGKILL" else ""
            cause_of_death = f"its worker process was killed by {name}{hint}"
        else:
            cause_of_death = f"its worker process ended with exit code {code}"
        return Failed(call.id, "died", cause_of_death)

    def _end(self, patience: float) -> None:
        """Closing the pipe ends an idle worker; one that does not end in time is killed, with all that it started."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            if patience:
                self._process.join(patience)
            if self._process.is_alive():
                self._process.kill()
            if self._process.pid is not None:  # the worker leads a group of its own
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            self._process.join()
            self._process.close()
        self._process = self._pipe = None
