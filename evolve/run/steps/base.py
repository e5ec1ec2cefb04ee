"""What the steps share: the context that they run in, and a step in flight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from evolve.engines.protocols import Engines
from evolve.lineage import Event, FamilyTree
from evolve.run.checkpoints import CheckpointGuard
from evolve.run.executors import Call
from evolve.run.folder import RunFolder
from evolve.run.hashes import HashCache

__all__ = ["Begun", "RunContext", "StepInFlight"]


@dataclass(frozen=True)
class StepInFlight:
    """A step whose call was submitted.

    Attributes:
        call: What the executor runs.
        finish: Puts the result into place and returns the events; called by the driver.
        model: The candidate whose attempt a failure costs; None where it would be the run's.
        step: The kind of the step: `merge`, `evaluate` or `kinship`.
        makes: The model whose checkpoint it makes.
    """

    call: Call
    finish: Callable[[Any], tuple[Event, ...]]
    model: str | None
    step: str
    makes: str | None = None


Begun = StepInFlight | tuple[Event, ...] | None
"""What beginning a step gives: a step in flight, or the events of an artifact that is in place already, or None where
it has to wait for a step in flight."""


@dataclass
class RunContext:
    """Everything that a step needs.

    Attributes:
        hashes: The cache of file hashes.
        guard: Tells which checkpoints are whole.
        making: Models whose checkpoints are being made.
    """

    folder: RunFolder
    tree: FamilyTree
    engines: Engines
    hashes: HashCache = field(default_factory=HashCache)
    guard: CheckpointGuard = field(init=False)
    making: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.guard = CheckpointGuard(self.hashes)
