"""The repair step: a checkpoint that is missing or damaged is made again before a step that needs it."""

from __future__ import annotations

from dataclasses import dataclass

from evolve.engines.protocols import MergeResult
from evolve.lineage import CheckpointRemade, Event, Model
from evolve.run.steps.base import Begun, RunContext, StepInFlight
from evolve.run.steps.checkpoint import CheckpointWork

__all__ = ["Repair", "find_repair"]


@dataclass(frozen=True)
class Repair:
    """A checkpoint that has to be made again.

    Attributes:
        damage: What is wrong with it, in a few words.
    """

    model: Model
    damage: str

    def begin(self, context: RunContext) -> Begun:
        """Make it again from its recipe and its parents, which are whole; None where that is under way."""
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
    """Return the first damaged checkpoint of these models, an ancestor's before its child's; None where all are whole.

    Only ancestors that a repair needs are looked at.
    """
    for name in names:
        model = context.tree.model(name)
        if model.kind == "foundation" or model.identity is None or model.checkpoint is None:
            continue
        damage = context.guard.damage(context.folder.checkpoint_of(model), model.identity)
        if damage is not None:
            return find_repair(context, model.parents) or Repair(model, damage)
    return None
