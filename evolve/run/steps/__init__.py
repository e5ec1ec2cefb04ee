"""The steps of a run: a step becomes a call, and its outcome an artifact, then events."""

from __future__ import annotations

from evolve.lineage import EvaluateStep, MeasureStep, MergeStep, Step
from evolve.run.steps.base import Begun, RunContext, StepInFlight, Waiting
from evolve.run.steps.evaluate import begin_evaluation
from evolve.run.steps.inputs import begin_reading, refuse_changes
from evolve.run.steps.measure import begin_measuring
from evolve.run.steps.merge import begin_merge, has_current_recipe, restore_recipe

__all__ = [
    "RunContext",
    "StepInFlight",
    "Waiting",
    "begin",
    "has_current_recipe",
    "refuse_changes",
    "restore_recipe",
]


def begin(context: RunContext, step: Step) -> Begun:
    """Begin a step: return it with the call to submit, or return the events of an artifact in place.

    Raises:
        InputsChangedError: A file that the call reads has changed since the run began.
    """
    begun = _begin(context, step)
    if not isinstance(begun, StepInFlight):
        return begun
    try:
        return begin_reading(context, begun)
    except BaseException:
        begun.release()
        raise


def _begin(context: RunContext, step: Step) -> Begun:
    match step:
        case MergeStep():
            return begin_merge(context, step)
        case EvaluateStep():
            return begin_evaluation(context, step)
        case MeasureStep():
            return begin_measuring(context, step)
