"""The repair step: merge a missing or damaged checkpoint again before a step that needs it."""

from __future__ import annotations

from dataclasses import dataclass

from evolve.engines.protocols import MergeResult
from evolve.lineage import CheckpointRemade, Event, Model
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
        """Begin to merge it again from its recipe and its intact parents; return None if that is in flight."""
        if self.model.name in context.making:
            return None
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


def find_repair(context: RunContext, names: tuple[str, ...]) -> Repair | None:
    """Return the repair of the first damaged checkpoint of these models; None if all are intact.

    A damaged ancestor is repaired before its child. Only ancestors that a repair needs are checked.
    """
    for name in names:
        model = context.tree.model(name)
        if model.kind == "foundation" or model.identity is None or model.checkpoint is None:
            continue
        damage = context.guard.damage(context.folder.checkpoint_of(model), model.identity)
        if damage is not None:
            return find_repair(context, model.parents) or Repair(model, damage)
    return None
