"""What an executor is asked and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from evolve.engines.protocols import Report
from evolve.errors import EvolveError

__all__ = ["Call", "Done", "Executor", "Failed", "Outcome", "Progress", "outcome_of"]


@dataclass(frozen=True)
class Call:
    """One self-contained piece of work: `function(job, report)`, both picklable.

    Attributes:
        id: Pairs the outcome with the call; unique among the calls in flight.
    """

    id: str
    function: Callable[[Any, Report], Any]
    job: Any


@dataclass(frozen=True)
class Done:
    """A call returned."""

    id: str
    result: Any


@dataclass(frozen=True)
class Failed:
    """A call gave no result.

    Attributes:
        cause: `error`: it refused with a reason; `memory`: it ran out of memory; `disk`: it ran out of disk space;
            `died`: its process ended; `bug`: it raised something unforeseen, or the machine failed under it.
        reason: One sentence.
        error: What was raised, where it is one of evolve's own.
        trace: The traceback of a bug.
    """

    id: str
    cause: Literal["error", "memory", "disk", "died", "bug"]
    reason: str
    error: EvolveError | None = None
    trace: str = ""


Outcome = Done | Failed


class Progress(Protocol):
    """Hears how far a call is."""

    def __call__(self, call_id: str, words: str, done: int, total: int) -> None:
        """Call `call_id` has finished `done` of `total` units of what `words` say."""


class Executor(Protocol):
    """Carries calls out; used by one thread, and closed by who made it.

    Outcomes come in any order; each call submitted has exactly one, unless it is abandoned.
    """

    @property
    def capacity(self) -> int:
        """How many calls may be in flight at once; `submit` beyond that is a ValueError."""

    def settle(self, log: Path, scratch: Path) -> None:
        """Give workers a home: a file for what they print and log, and an existing folder for their temporary files.

        Before, their output goes nowhere, and their temporary files where the system puts such files.
        """

    def submit(self, call: Call) -> None:
        """Begin a call."""

    def wait(self, timeout: float) -> Outcome | None:
        """The next outcome, or None when `timeout` seconds passed without one."""

    def abandon(self) -> None:
        """Give up all calls in flight at once; their outcomes never come."""

    def close(self) -> None:
        """End all workers."""


def outcome_of(executor: Executor, call: Call) -> Outcome:
    """Carry out one call by itself, and wait for what comes of it."""
    executor.submit(call)
    while (outcome := executor.wait(1.0)) is None:
        pass
    return outcome
