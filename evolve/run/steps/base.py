"""What the steps share: the workshop that they work in, and a task in flight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from evolve.engines.protocols import Engines
from evolve.lineage import Event, FamilyTree
from evolve.run.checkpoints import CheckpointGuard
from evolve.run.executors import Call
from evolve.run.folder import RunFolder

__all__ = ["Begun", "Task", "Workshop"]


@dataclass(frozen=True)
class Task:
    """A step on its way.

    Attributes:
        call: What the executor carries out.
        finish: Puts the result into place and says what happened; called by the driver.
        model: The candidate that pays for a failure; None where the run as a whole would.
        step: What kind of step it is.
        makes: The model whose checkpoint comes of it.
    """

    call: Call
    finish: Callable[[Any], tuple[Event, ...]]
    model: str | None
    step: str
    makes: str | None = None


Begun = Task | tuple[Event, ...] | None
"""Beginning a step gives a task, or at once the events of an artefact that was there already, or None where it has to
wait for something in flight."""


@dataclass
class Workshop:
    """Everything that a step needs.

    Attributes:
        guard: Knows which checkpoints are whole.
        making: Models whose checkpoints are being made.
    """

    folder: RunFolder
    tree: FamilyTree
    engines: Engines
    guard: CheckpointGuard = field(init=False)
    making: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.guard = CheckpointGuard(self.folder.hashes)
