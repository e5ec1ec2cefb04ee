"""One model of the family tree, and what depends on one model alone."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from evolve.lineage.events import BatchSize, Estimate, PlannedMerge, Score, TokenizerChoice
from evolve.lineage.racing import Interval

__all__ = [
    "Age",
    "Model",
    "Pair",
    "RaceStanding",
    "Status",
    "pair",
    "planned_child",
    "weighted_average",
    "weighted_influence",
]

Status = Literal["planned", "merged", "racing", "estimated", "evaluated", "dropped", "failed"]
Pair = tuple[str, str]
Age = tuple[int, tuple[str | int, ...], str]

_NUMBER = re.compile(r"([0-9]+)")


def pair(a: str, b: str) -> Pair:
    """Return the unordered pair of two models: their names, sorted as strings."""
    return (a, b) if a <= b else (b, a)


def _natural(name: str) -> tuple[str | int, ...]:
    """Return a sort key by which `model-1-10` comes after `model-1-2`, and `model-1-exp` after both.

    Text and numbers take turns in it, text first, so that two keys can always be compared.
    """
    return tuple(int(part) if index % 2 else part for index, part in enumerate(_NUMBER.split(name)))


@dataclass(frozen=True)
class RaceStanding:
    """What is known of a child after the last rung of its race.

    Attributes:
        rung: Number of the rung, from 1.
        share: Its share of all items (0..1).
        estimates: The estimated score of each task.
        average: Weighted mean of the estimates (0..1).
        stderr: Standard error of the sampling of the average.
        interval: The bounds of the average, by the confidence of the configuration.
    """

    rung: int
    share: float
    estimates: dict[str, Estimate]
    average: float
    stderr: float
    interval: Interval


@dataclass(frozen=True)
class Model:
    """One node of the tree.

    A model has scores only when it is evaluated, a reason only when it failed, and two parents only when it is a
    child.

    Attributes:
        average: Weighted mean of the scores (0..1), or of the estimates of an estimated model; else None.
        average_stderr: Standard error of the average, with the tasks taken as independent; None if a task has none, and
            for an estimate, whose error is in `race`.
        race: What its race has shown; None before the first rung, and for a model that does not race.
        tokenizer: Where a child's tokenizer comes from; None before it is merged and in journals of schema 1.
        seconds: Wall time of the steps `merge` and `evaluate`.
        times: When it was `planned`, `merged`, `evaluated` or `failed`, as UTC times in ISO format, where known.
        reused: All its scores come from the score store.
        reused_tasks: Tasks whose scores come from the score store.
        failed_step: The step that failed, of a failed model.
        retries: Errors of all attempts that were followed by another, in order.
        attempts: Failed attempts by step; an attempt that only halved the batch does not count.
        remade: Why its checkpoint was merged again, each time.
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
    tokenizer: TokenizerChoice | None = None
    bytes: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    times: dict[str, str] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    batch_size: BatchSize | None = None
    reused: bool = False
    reused_tasks: tuple[str, ...] = ()
    average: float | None = None
    average_stderr: float | None = None
    race: RaceStanding | None = None
    reason: str | None = None
    failed_step: Literal["merge", "evaluate"] | None = None
    retries: tuple[str, ...] = ()
    attempts: dict[str, int] = field(default_factory=dict)
    remade: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.parents)) != len(self.parents) or len(self.parents) != (0 if self.kind == "foundation" else 2):
            raise ValueError(f"{self.name}: a foundation has no parents, a child has two different ones")
        if (self.kind == "foundation") != (self.generation == 0):
            raise ValueError(f"{self.name}: generation 0 is that of the foundations, and only theirs")
        if (self.status == "evaluated") != bool(self.scores):
            raise ValueError(f"{self.name}: a model has scores if it is evaluated, and only then")
        if (self.status in {"evaluated", "estimated"}) != (self.average is not None):
            raise ValueError(f"{self.name}: a model has an average if it is evaluated or estimated, and only then")
        if self.is_estimated and (self.race is None or self.kind == "foundation"):
            raise ValueError(f"{self.name}: a model is {self.status} only after a rung of its race")
        if self.average is None and self.average_stderr is not None:
            raise ValueError(f"{self.name}: it has a standard error and no average")
        if not all(math.isfinite(number or 0.0) for number in (self.average, self.average_stderr)):
            raise ValueError(f"{self.name}: its average is not finite")
        if len({self.status == "failed", self.reason is not None, self.failed_step is not None}) > 1:
            raise ValueError(f"{self.name}: a model has a reason and a failed step if it failed, and only then")

    @property
    def known_average(self) -> float | None:
        """The average, or for a dropped model its estimate; None for a model that can be no parent."""
        return self.race.average if self.status == "dropped" and self.race is not None else self.average

    @property
    def is_estimated(self) -> bool:
        """Whether its average is known from a part of the items only."""
        return self.status in {"racing", "estimated", "dropped"}

    @property
    def rungs(self) -> int:
        """Number of finished rungs of its race."""
        return self.race.rung if self.race is not None else 0

    @property
    def age(self) -> Age:
        """Sort key for ties: the older model first, then the smaller number in the name, then the name."""
        return (self.generation, _natural(self.name), self.name)


def planned_child(generation: int, merge: PlannedMerge) -> Model:
    """Return the node of a child that is only planned."""
    return Model(
        name=merge.name,
        generation=generation,
        kind=merge.kind,
        parents=merge.parents,
        decision=merge.decision,
        recipe_name=merge.recipe,
    )


def weighted_average(
    scores: Mapping[str, Score | Estimate], weights: Mapping[str, float]
) -> tuple[float, float | None]:
    """Return the weighted mean of the scores and its standard error.

    A task where lower is better has a negative weight. The sum is divided by the sum of the absolute weights. The tasks
    are taken as independent. No sum overflows, because scores and weights are bounded.
    """
    total = math.fsum(abs(weights[task]) for task in scores)
    mean = math.fsum(weights[task] * score.value for task, score in scores.items()) / total
    if any(score.stderr is None for score in scores.values()):
        return mean, None
    variance = math.fsum((weights[task] * (score.stderr or 0.0) / total) ** 2 for task, score in scores.items())
    return mean, math.sqrt(variance)


def weighted_influence(estimates: Mapping[str, Estimate], weights: Mapping[str, float]) -> float:
    """Return the most that the answer of one item can change the weighted mean of the estimates."""
    total = math.fsum(abs(weights[task]) for task in estimates)
    return max(abs(weights[task]) / total * estimate.influence for task, estimate in estimates.items())
