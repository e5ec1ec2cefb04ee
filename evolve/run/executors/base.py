"""The protocol of executors: calls, outcomes and progress; `run_call` runs a single call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from evolve.errors import DiskError, EvolveError, OutOfMemoryError, RunError

__all__ = ["Call", "Done", "Executor", "Failed", "Outcome", "Progress", "run_call"]


@dataclass(frozen=True)
class Call:
    """One self-contained piece of work; its function, job and result are picklable.

    A call that needs no GPU runs as `function(job, report)`. A call that needs a GPU runs as
    `function(job, report, device=...)`, and the executor chooses the device.

    Attributes:
        id: Pairs the outcome with the call; unique among the calls in flight.
        function: An engine, or another module-level function.
        job: What the function works on.
        gpus: Number of GPUs that the call needs; 0 for work on the host alone.
    """

    id: str
    function: Callable[..., Any]
    job: Any
    gpus: int = 0


@dataclass(frozen=True)
class Done:
    """A call that returned a result."""

    id: str
    result: Any


@dataclass(frozen=True)
class Failed:
    """A call without a result.

    Attributes:
        id: The id of the call.
        cause: Kind of the failure:
            `error`: the function raised one of evolve's own errors, so that another attempt would fail as well;
            `memory`: the host or the GPU ran out of memory;
            `disk`: a disk or a quota is full, or a file reached the limit of its size;
            `died`: the worker process ended;
            `bug`: the function raised an unforeseen error, or the machine failed (an I/O error, a CUDA error).
        reason: One sentence for the user.
        error: The error that was raised, if it is one of evolve's own and `cause` is `error` or `bug`.
        trace: The traceback of an unforeseen error.
    """

    id: str
    cause: Literal["error", "memory", "disk", "died", "bug"]
    reason: str
    error: EvolveError | None = None
    trace: str = ""


Outcome = Done | Failed


class Progress(Protocol):
    """A listener to the progress of calls."""

    def __call__(self, call_id: str, words: str, done: int, total: int) -> None:
        """Show or store the progress of a call: `done` of `total` units of the work that `words` names."""


class Executor(Protocol):
    """A runner of calls. One thread uses it, and the code that made it closes it.

    Outcomes come in any order. Each submitted call has exactly one outcome, unless it is abandoned.
    """

    @property
    def capacity(self) -> int:
        """The maximum number of calls in flight; `submit` raises ValueError beyond it."""

    def redirect(self, log: Path, scratch: Path) -> None:
        """Send the output of all workers to a file, and their temporary files to an existing folder.

        Before the first call of this method, output is discarded and temporary files go to a folder of the executor.
        """

    def submit(self, call: Call) -> None:
        """Begin a call."""

    def wait(self, timeout: float) -> Outcome | None:
        """Return the next outcome; None after `timeout` seconds, or earlier after a progress report."""

    def abandon(self) -> None:
        """Kill all calls in flight; they have no outcome."""

    def close(self) -> None:
        """End all workers."""


def run_call(executor: Executor, call: Call) -> Any:
    """Run one call, wait for it and return its result; no other call may be in flight.

    An exception while it waits, such as one of a signal, abandons the call, so that nothing writes files any more.

    Raises:
        EvolveError: The error that the call raised. Any other failure raises a `DiskError`, an `OutOfMemoryError` or
            another `RunError`, with the traceback of an unforeseen error as a note.
    """
    try:
        executor.submit(call)
        while (outcome := executor.wait(1.0)) is None:
            pass
    except BaseException:
        executor.abandon()
        raise
    if isinstance(outcome, Done):
        return outcome.result
    kind = {"disk": DiskError, "memory": OutOfMemoryError}.get(outcome.cause, RunError)
    error = outcome.error or kind(f"{call.id}: {outcome.reason}")
    if outcome.trace:
        error.add_note(outcome.trace)
    raise error
