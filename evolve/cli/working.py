"""One piece of engine work outside of a run, in a worker process like in a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evolve.engines.protocols import Report
from evolve.errors import RunError
from evolve.run.executors import Call, Done, Executor, outcome_of

__all__ = ["carry_out"]


def carry_out(executor: Executor, words: str, function: Callable[[Any, Report], Any], job: Any) -> Any:
    """Call an engine and wait for its result; what it raises is raised here."""
    outcome = outcome_of(executor, Call(words, function, job))
    if isinstance(outcome, Done):
        return outcome.result
    error = outcome.error or RunError(f"{words}: {outcome.reason}")
    if outcome.trace:
        error.add_note(outcome.trace)
    raise error
