"""The context in which steps run, and the record of a step in flight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from evolve.engines.protocols import Engines
from evolve.lineage import Event, FamilyTree
from evolve.run.checkpoints import CheckpointGuard
from evolve.run.claims import Claim
from evolve.run.executors import Call
from evolve.run.folder import RunFolder
from evolve.run.hashes import HashCache
from evolve.run.inputfiles import InputFiles

__all__ = ["Begun", "RunContext", "StepInFlight", "Waiting"]


@dataclass(frozen=True)
class StepInFlight:
    """A step whose call was submitted.

    Attributes:
        call: What the executor runs.
        finish: Publishes the result and returns the events; the driver calls it.
        model: The candidate that a failure costs an attempt; None if a failure costs the run an attempt.
        step: Kind of the step: `merge`, `evaluate` or `kinship`.
        makes: The model whose checkpoint the step makes; None if it makes none.
        reads: The files that the call reads.
        claim: The claim on the scores that the call computes; released after `finish`.
    """

    call: Call
    finish: Callable[[Any], tuple[Event, ...]]
    model: str | None
    step: str
    makes: str | None = None
    reads: InputFiles | None = None
    claim: Claim | None = None

    def release(self) -> None:
        """Release the claim, if there is one."""
        if self.claim is not None:
            self.claim.release()


@dataclass(frozen=True)
class Waiting:
    """A step that has to wait for another run; `words` say for what."""

    words: str


Begun = StepInFlight | tuple[Event, ...] | Waiting | None
"""The result of beginning a step: a step in flight, the events of an artifact in place, a step that waits for another
run, or None if the step has to wait for a step in flight."""


@dataclass
class RunContext:
    """Everything that a step needs.

    Attributes:
        hashes: The cache of file hashes.
        guard: Detects damaged checkpoints.
        making: Models whose checkpoints are being made.
        begun: Number of events before this session.
    """

    folder: RunFolder
    tree: FamilyTree
    engines: Engines
    hashes: HashCache = field(default_factory=HashCache)
    guard: CheckpointGuard = field(init=False)
    making: set[str] = field(default_factory=set)
    begun: int = field(init=False)

    def __post_init__(self) -> None:
        self.guard = CheckpointGuard(self.hashes)
        self.begun = len(self.tree.history)
