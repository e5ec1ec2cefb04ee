"""Which step is begun how."""

from __future__ import annotations

from evolve.lineage import EvaluateStep, MeasureStep, MergeStep, Step
from evolve.run.steps.base import Begun, Workshop
from evolve.run.steps.evaluate import begin_evaluation
from evolve.run.steps.measure import begin_measuring
from evolve.run.steps.merge import begin_merge

__all__ = ["begin"]


def begin(shop: Workshop, step: Step) -> Begun:
    """Begin a step: a task to carry out, or at once the events of an artefact that was there already."""
    match step:
        case MergeStep():
            return begin_merge(shop, step)
        case EvaluateStep():
            return begin_evaluation(shop, step)
        case MeasureStep():
            return begin_measuring(shop, step)
