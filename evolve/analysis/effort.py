"""The work that a run has done, the time it took, and an estimate of the time left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evolve.analysis.standing import generations
from evolve.lineage import FamilyTree, Model, most_children

__all__ = ["Effort", "Estimate", "effort", "remaining"]


@dataclass(frozen=True)
class Effort:
    """The work of a run so far, without scores taken from the score store.

    Attributes:
        merges: Children that were merged.
        evaluations: Models that this run scored itself, on at least one task, or on a part of the items.
        reused: Models whose scores all come from the score store.
        merge_seconds: Total wall time of the successful merges.
        evaluate_seconds: Total wall time of the successful evaluations.
    """

    merges: int
    evaluations: int
    reused: int
    merge_seconds: float
    evaluate_seconds: float


@dataclass(frozen=True)
class Estimate:
    """The time left, if merges and evaluations take as long as they did so far, one after another.

    Attributes:
        seconds_for_generation: Until the current generation is complete.
        seconds_at_most: Until the run reaches `strategy.max_generations`, if every generation has as many children as
            the settings allow. A run that stops for another reason stops earlier.
    """

    seconds_for_generation: float
    seconds_at_most: float


def effort(tree: FamilyTree) -> Effort:
    """Return the work of a run so far."""
    models = tree.models
    scored = [model for model in models if model.status == "evaluated" or model.race is not None]
    return Effort(
        merges=sum(model.kind != "foundation" and model.identity is not None for model in models),
        evaluations=sum(not model.reused for model in scored),
        reused=sum(model.reused for model in scored),
        merge_seconds=math.fsum(model.seconds.get("merge", 0.0) for model in models),
        evaluate_seconds=math.fsum(model.seconds.get("evaluate", 0.0) for model in scored if not model.reused),
    )


def remaining(tree: FamilyTree) -> Estimate | None:
    """Return an estimate of the time left, from the mean times of this run's merges and evaluations.

    Kinships are not timed and count as nothing, as does a merge before the first one was timed. A child that races
    counts as one scored in full, so the estimate is too high. An evaluation for which
    the score store had some of the tasks counts only where there is no other.

    Returns:
        None before this run has scored a model itself, and after it has stopped.
    """
    scored = [model for model in tree.models if model.status == "evaluated" and not model.reused]
    evaluate = _mean([m for m in scored if not m.reused_tasks] or scored, "evaluate")
    if tree.stop is not None or evaluate is None:
        return None
    merge = _mean(tree.models, "merge") or 0.0
    statuses = [model.status for model in generations(tree)[tree.generation]]
    current = statuses.count("planned") * (merge + evaluate)
    current += (statuses.count("merged") + statuses.count("racing")) * evaluate
    later = range(tree.generation + 1, tree.config.strategy.max_generations + 1)
    children = sum(most_children(tree.config, generation) for generation in later)
    return Estimate(current, current + children * (merge + evaluate))


def _mean(models: Sequence[Model], step: str) -> float | None:
    seconds = [model.seconds[step] for model in models if step in model.seconds]
    return math.fsum(seconds) / len(seconds) if seconds else None
