"""One model of the family tree, and what is computed of one model alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from evolve.lineage.events import PlannedMerge, Score

__all__ = ["Model", "Pair", "Status", "pair", "planned_child", "weighted_average"]

Status = Literal["planned", "merged", "evaluated", "failed"]
Pair = tuple[str, str]


def pair(a: str, b: str) -> Pair:
    """The unordered pair of two models, in the order of their names."""
    return (a, b) if a <= b else (b, a)


@dataclass(frozen=True)
class Model:
    """One node of the tree.

    A model has scores exactly when it is evaluated, a reason exactly when it has failed, and two parents exactly when
    it is a child.

    Attributes:
        average: Weighted mean of the scores (0..1); None before they are there.
        average_stderr: Standard error of the average, the tasks taken as independent; None where one has none.
        seconds: Wall times of `merge` and `evaluate`.
        retries: What failed before it worked, in order.
        attempts: Attempts that were lost, by step; halving a batch costs none.
        remade: Why its checkpoint had to be made again, each time.
    """

    name: str
    generation: int
    kind: Literal["foundation", "merge", "exploration"]
    parents: tuple[()] | tuple[str, str]
    decision: str
    recipe_name: str | None = None
    status: Status = "planned"
    identity: str | None = None
    checkpoint: str | None = None
    recipe: str | None = None
    bytes: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    batch_size: int | None = None
    reused: bool = False
    average: float | None = None
    average_stderr: float | None = None
    reason: str | None = None
    retries: tuple[str, ...] = ()
    attempts: dict[str, int] = field(default_factory=dict)
    remade: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.parents)) != len(self.parents) or len(self.parents) != (0 if self.kind == "foundation" else 2):
            raise ValueError(f"{self.name}: a foundation has no parents, a child has two different ones")
        if (self.kind == "foundation") != (self.generation == 0):
            raise ValueError(f"{self.name}: a model is of generation 0 exactly when it is a foundation")
        if (self.status == "evaluated") != bool(self.scores) or bool(self.scores) != (self.average is not None):
            raise ValueError(f"{self.name}: a model has scores exactly when it is evaluated")
        if self.average is None and self.average_stderr is not None:
            raise ValueError(f"{self.name}: a standard error stands beside an average")
        if not all(math.isfinite(number or 0.0) for number in (self.average, self.average_stderr)):
            raise ValueError(f"{self.name}: its average is not finite")
        if (self.status == "failed") != (self.reason is not None):
            raise ValueError(f"{self.name}: a model has a reason exactly when it failed")

    @property
    def age(self) -> tuple[int, str]:
        """Sorts the older model first, and models of one generation by name: the order of all ties."""
        return (self.generation, self.name)


def planned_child(generation: int, merge: PlannedMerge) -> Model:
    """The node of a child that has only been planned."""
    return Model(
        name=merge.name,
        generation=generation,
        kind=merge.kind,
        parents=merge.parents,
        decision=merge.decision,
        recipe_name=merge.recipe,
    )


def weighted_average(scores: dict[str, Score], weights: dict[str, float]) -> tuple[float, float | None]:
    """Weighted mean of the scores and its standard error, the tasks taken as independent; infinite where too large.

    A negative weight is that of a task of which less is better; the weights' sizes add up to the whole.
    """
    try:
        return _weighted_average(scores, weights)
    except OverflowError:
        return math.inf, None


def _weighted_average(scores: dict[str, Score], weights: dict[str, float]) -> tuple[float, float | None]:
    total = math.fsum(abs(weights[task]) for task in scores)
    mean = math.fsum(weights[task] * score.value for task, score in scores.items()) / total
    errors: list[Any] = [score.stderr for score in scores.values()]
    if any(error is None for error in errors):
        return mean, None
    variance = math.fsum((weights[task] * (score.stderr or 0.0) / total) ** 2 for task, score in scores.items())
    return mean, math.sqrt(variance)
