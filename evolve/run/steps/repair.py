"""The repair step: merge a missing or damaged checkpoint again before a step that needs it.

A repair that does not last, because something damages the checkpoint again before it is used, is tried as often as any
other work.
"""

from __future__ import annotations

from dataclasses import dataclass

from evolve.engines.protocols import MergeResult
from evolve.errors import RunError
from evolve.lineage import (
    CheckpointRemade,
    Event,
    KinshipMeasured,
    Model,
    ModelEvaluated,
    ModelFailed,
    ModelMerged,
    RungScored,
)
from evolve.run.steps.base import Begun, RunContext, StepInFlight
from evolve.run.steps.checkpoint import CheckpointWork

__all__ = ["Repair", "find_repair"]


@dataclass(frozen=True)
class Repair:
    """A checkpoint that must be merged again.

    Attributes:
        damage: Description of the damage in a few words.
    """

    model: Model
    damage: str

    def begin(self, context: RunContext) -> Begun:
        """Begin to merge it again from its recipe and its intact parents; return None if that is in flight.

        Raises:
            RunError: It was merged again several times in vain, and its scores are recorded.
        """
        if self.model.name in context.making:
            return None
        tried = _tried_in_vain(context, self.model.name)
        if tried >= context.tree.config.attempts:
            return self._give_up(context, tried)
        work, identity = CheckpointWork(context, self.model), self.model.identity or ""

        def finish(result: MergeResult) -> tuple[Event, ...]:
            manifest = work.put_in_place(identity, result)
            return (
                CheckpointRemade(
                    model=self.model.name,
                    reason=self.damage,
                    identity=identity,
                    bytes=manifest.bytes,
                    seconds=manifest.seconds,
                ),
            )

        name = self.model.name
        return StepInFlight(work.call("merge again"), finish, name, "merge", makes=name)

    def _give_up(self, context: RunContext, tried: int) -> tuple[Event, ...]:
        """Return the failure of a child that has no scores yet; raise RunError for one that has."""
        times = "once" if tried == 1 else f"{tried} times"
        reason = f"its checkpoint was merged again {times} and is damaged again before it is used ({self.damage})"
        if self.model.status in {"merged", "racing"}:
            return (ModelFailed(model=self.model.name, step="merge", reason=reason, attempts=tried),)
        root = context.folder.root
        raise RunError(
            f"{context.folder.checkpoint(self.model.name)}: {reason}; find out what changes it, then run "
            f"`evolve resume {root}`"
        )


def find_repair(context: RunContext, names: tuple[str, ...]) -> Repair | None:
    """Return the repair of the first damaged checkpoint of these models; None if all are intact.

    A damaged ancestor is repaired before its child. Only ancestors that a repair needs are checked.
    """
    found: Repair | None = None
    while (deeper := _first_damaged(context, names)) is not None:
        found, names = deeper, deeper.model.parents
    return found


def _first_damaged(context: RunContext, names: tuple[str, ...]) -> Repair | None:
    for name in names:
        model = context.tree.model(name)
        if model.kind == "foundation" or model.identity is None or model.checkpoint is None:
            continue
        damage = context.guard.damage(context.folder.checkpoint_of(model), model.identity)
        if damage is not None:
            return Repair(model, damage)
    return None


def _tried_in_vain(context: RunContext, name: str) -> int:
    """Return how often a checkpoint was merged again in this session since a step last used it."""
    tried = 0
    for recorded in context.tree.history[context.begun :]:
        match recorded.event:
            case CheckpointRemade(model=model) if model == name:
                tried += 1
            case ModelEvaluated(model=model) | RungScored(model=model) if model == name:
                tried = 0
            case KinshipMeasured(a=a, b=b) if name in {a, b}:
                tried = 0
            case ModelMerged(model=model) if name in context.tree.model(model).parents:
                tried = 0
    return tried
