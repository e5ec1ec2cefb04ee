"""The merge step: a verified checkpoint from a recipe and two parents."""

from __future__ import annotations

from evolve.engines.protocols import MergeResult
from evolve.lineage import Event, MergeStep, Model, ModelMerged
from evolve.run.checkpoints import Manifest
from evolve.run.steps.base import Begun, RunContext, StepInFlight
from evolve.run.steps.checkpoint import CheckpointWork
from evolve.run.steps.repair import find_repair

__all__ = ["begin_merge", "has_current_recipe", "restore_recipe"]


def begin_merge(context: RunContext, step: MergeStep) -> Begun:
    """Merge a planned child, or use the intact checkpoint that an interrupted run left in place."""
    model = context.tree.model(step.model)
    repair = find_repair(context, model.parents)
    if repair is not None:
        return repair.begin(context)
    work = CheckpointWork(context, model)
    identity = work.identity
    if work.final.exists() and context.guard.damage(work.final, identity) is None:
        manifest = Manifest.read(work.final, identity)
        if manifest is not None:
            work.restore_recipe()
            return (_merged(work, manifest),)

    def finish(result: MergeResult) -> tuple[Event, ...]:
        return (_merged(work, work.put_in_place(identity, result)),)

    return StepInFlight(work.call("merge"), finish, model.name, "merge", makes=model.name)


def has_current_recipe(context: RunContext, model: Model) -> bool:
    """Return whether the recipe of a merged child exists with the present paths of its models."""
    return CheckpointWork(context, model).has_current_recipe()


def restore_recipe(context: RunContext, model: Model) -> None:
    """Rewrite the recipe of a merged child if it is missing or outdated."""
    CheckpointWork(context, model).restore_recipe()


def _merged(work: CheckpointWork, manifest: Manifest) -> ModelMerged:
    folder, name = work.context.folder, work.model.name
    return ModelMerged(
        model=name,
        identity=manifest.identity,
        checkpoint=folder.relative(work.final),
        recipe=folder.relative(folder.recipe(name)),
        bytes=manifest.bytes,
        seconds=manifest.seconds,
        tokenizer=work.child.tokenizer or "plain",
    )
