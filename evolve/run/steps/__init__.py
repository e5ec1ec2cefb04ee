"""The steps of a run: each becomes a call, and its outcome becomes events; artifact first, event second."""

from __future__ import annotations

from evolve.lineage import EvaluateStep, MeasureStep, MergeStep, Step
from evolve.run.steps.base import Begun, RunContext, StepInFlight
from evolve.run.steps.evaluate import batch_size, begin_evaluation
from evolve.run.steps.measure import begin_measuring
from evolve.run.steps.merge import begin_merge, restore_recipe

__all__ = ["RunContext", "StepInFlight", "batch_size", "begin", "restore_recipe"]


def begin(context: RunContext, step: Step) -> Begun:
    """Begin a step: return a call to submit, or the events of an artifact that is in place already."""
    match step:
        case MergeStep():
            return begin_merge(context, step)
        case EvaluateStep():
            return begin_evaluation(context, step)
        case MeasureStep():
            return begin_measuring(context, step)
