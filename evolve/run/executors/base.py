"""What an executor is asked, what it answers, and how one call is carried out alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from evolve.errors import DiskError, EvolveError, RunError

__all__ = ["Call", "Done", "Executor", "Failed", "Outcome", "Progress", "run_call"]


@dataclass(frozen=True)
class Call:
    """One self-contained piece of work; its function, job and result are picklable.

    A call that needs no GPU is made as `function(job, report)`. One that needs a GPU is made as
    `function(job, report, device=...)`: the executor chooses the device.

    Attributes:
        id: Pairs the outcome with the call; unique among the calls in flight.
        function: An engine, or another module-level function.
        job: What the function works on.
        gpus: Number of GPUs the call needs; 0 for work on the host alone.
    """

    id: str
    function: Callable[..., Any]
    job: Any
    gpus: int = 0


@dataclass(frozen=True)
class Done:
    """A call that returned."""

    id: str
    result: Any


@dataclass(frozen=True)
class Failed:
    """A call without a result.

    Attributes:
        id: The id of the call.
        cause: What went wrong:
            `error`: the function raised one of evolve's own errors: the work cannot be done, and another attempt
            would fail in the same way;
            `memory`: the host or the GPU ran out of memory;
            `disk`: a disk or a quota is full;
            `died`: the worker process ended;
            `bug`: the function raised an unforeseen error, or the machine failed (an I/O error, a CUDA error).
        reason: One sentence for the user.
        error: The error that was raised, where it is one of evolve's own and `cause` is `error` or `bug`.
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
        """Take note that call `call_id` has finished `done` of `total` units of the work that `words` name."""


class Executor(Protocol):
    """Carries out calls. It is used by one thread, and closed by the code that made it.

    Outcomes come in any order. Each call that was submitted has exactly one, unless it is abandoned.
    """

    @property
    def capacity(self) -> int:
        """How many calls may be in flight at once; `submit` raises ValueError beyond that."""

    def redirect(self, log: Path, scratch: Path) -> None:
        """Send the output of all workers to a file, and their temporary files to an existing folder.

        Until then the output is discarded, and temporary files go to the system's folder.
        """

    def submit(self, call: Call) -> None:
        """Begin a call."""

    def wait(self, timeout: float) -> Outcome | None:
        """Return the next outcome, or None after `timeout` seconds, or earlier when progress was reported."""

    def abandon(self) -> None:
        """Kill all calls in flight; they have no outcome."""

    def close(self) -> None:
        """End all workers."""


def run_call(executor: Executor, call: Call) -> Any:
    """Carry out one call, wait for it and return its result; no other call may be in flight.

    Raises:
        EvolveError: What the call raised. A failure of another kind is a `DiskError` or a `RunError`, with the
            traceback of an unforeseen error as a note.
    """
    executor.submit(call)
    while (outcome := executor.wait(1.0)) is None:
        pass
    if isinstance(outcome, Done):
        return outcome.result
    kind = DiskError if outcome.cause == "disk" else RunError
    error = outcome.error or kind(f"{call.id}: {outcome.reason}")
    if outcome.trace:
        error.add_note(outcome.trace)
    raise error
