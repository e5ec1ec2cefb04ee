"""Differences between models, with their standard errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

from evolve.lineage import FamilyTree, Model

__all__ = ["Difference", "Lead", "better_parent_difference", "gain_of", "lead"]


@dataclass(frozen=True)
class _Measured:
    """A score (0..1) with its standard error, where it has one."""

    value: float
    stderr: float | None


@dataclass(frozen=True)
class Difference:
    """A difference of scores (0..1) with its standard error, with the scores taken as independent.

    Models are scored on the same items, so their errors are mostly correlated and the true standard error of a
    difference is smaller: this one is conservative.

    Attributes:
        stderr: None if one of the scores has no standard error.
    """

    value: float
    stderr: float | None

    @property
    def is_clear(self) -> bool | None:
        """Whether the size of the difference exceeds two standard errors; None if these are not known."""
        return None if self.stderr is None else abs(self.value) > 2 * self.stderr


@dataclass(frozen=True)
class Lead:
    """The best model, the best foundation, and their difference; both may be the same model."""

    best: Model
    foundation: Model
    difference: Difference


def gain_of(tree: FamilyTree, name: str, task: str | None = None) -> Difference | None:
    """Return the merge gain of a child: its average minus the mean of its parents' averages.

    The standard error is sqrt(child^2 + (parent 1^2 + parent 2^2) / 4).

    Args:
        tree: The tree with the child and its parents.
        name: The child.
        task: The task whose scores are compared; None for the average.

    Returns:
        None for a foundation, and where a score is missing.
    """
    family = _family(tree, name, task)
    if family is None:
        return None
    child, first, second = family
    return _difference((1.0, child), (-0.5, first), (-0.5, second))


def better_parent_difference(tree: FamilyTree, name: str, task: str | None = None) -> Difference | None:
    """Return a child's average minus that of its better parent, the one with the higher average.

    Args:
        tree: The tree with the child and its parents.
        name: The child.
        task: The task whose scores are compared, with the same parent; None for the average.

    Returns:
        None for a foundation, and where a score is missing.
    """
    family, averages = _family(tree, name, task), _family(tree, name, None)
    if family is None or averages is None:
        return None
    better = family[1] if averages[1].value >= averages[2].value else family[2]
    return _difference((1.0, family[0]), (-1.0, better))


def lead(tree: FamilyTree) -> Lead | None:
    """Return the lead of the best model over the best foundation; None before a foundation is scored."""
    ranking = tree.ranking
    foundation = next((model for model in ranking if model.kind == "foundation"), None)
    if foundation is None:
        return None
    best = ranking[0]
    if best.name == foundation.name:
        return Lead(best, foundation, Difference(0.0, 0.0))
    scores = [_Measured(model.average or 0.0, model.average_stderr) for model in (best, foundation)]
    return Lead(best, foundation, _difference((1.0, scores[0]), (-1.0, scores[1])))


def _family(tree: FamilyTree, name: str, task: str | None) -> list[_Measured] | None:
    """Return the scores of a child and its two parents; None if one is missing."""
    child = tree.model(name)
    found = [_score(model, task) for model in (child, *(tree.model(parent) for parent in child.parents))]
    known = [score for score in found if score is not None]
    return known if len(known) == 3 else None


def _score(model: Model, task: str | None) -> _Measured | None:
    """Return a model's average, or its score of a task."""
    if task is not None:
        score = model.scores.get(task)
        return None if score is None else _Measured(score.value, score.stderr)
    return None if model.average is None else _Measured(model.average, model.average_stderr)


def _difference(*terms: tuple[float, _Measured]) -> Difference:
    """Return a weighted sum of independent scores."""
    value = math.fsum(weight * score.value for weight, score in terms)
    errors = [abs(weight) * score.stderr for weight, score in terms if score.stderr is not None]
    return Difference(value, math.hypot(*errors) if len(errors) == len(terms) else None)
