"""What the views say about a family tree beyond what it says itself: differences with their errors, counts, effort.

Pure functions of the tree; scores and differences are kept in 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evolve.lineage import FamilyTree, Model, Score

__all__ = [
    "Difference",
    "Effort",
    "Lead",
    "best_by_generation",
    "differing_settings",
    "effort",
    "gain_of",
    "generations",
    "lead",
    "task_gain",
    "top_kinship",
]

# Settings of an evaluation that change a score; the others say where things lie or how fast they go.
_SCORED_BY = ("tasks", "limit", "model", "model_args", "apply_chat_template", "fewshot_as_multiturn")


@dataclass(frozen=True)
class Difference:
    """A difference of scores (0..1) with its standard error, the scores taken as independent.

    Models are scored on the same items, so their errors mostly go the same way and the true standard error of a
    difference is smaller: this one is conservative.

    Attributes:
        stderr: None where one of the scores has no standard error.
    """

    value: float
    stderr: float | None

    @property
    def is_clear(self) -> bool | None:
        """Whether it is larger than two standard errors; None where these are not known."""
        return None if self.stderr is None else abs(self.value) > 2 * self.stderr


@dataclass(frozen=True)
class Lead:
    """The best model, the best foundation, and what the first has over the second; both may be the same model."""

    best: Model
    foundation: Model
    difference: Difference


@dataclass(frozen=True)
class Effort:
    """What a run did and how long it took; scores taken from the score store cost nothing.

    Attributes:
        merges: Children whose checkpoint was made.
        evaluations: Models that this run scored itself.
        reused: Models whose scores come from the score store.
        merge_seconds: Wall times of the merges that succeeded, summed.
        evaluate_seconds: Wall times of the evaluations that succeeded, summed.
    """

    merges: int
    evaluations: int
    reused: int
    merge_seconds: float
    evaluate_seconds: float


def generations(tree: FamilyTree) -> dict[int, list[Model]]:
    """The models by generation, in the order in which they were planned (foundations: as configured)."""
    found: dict[int, list[Model]] = {}
    for name in tree.graph:
        model = tree.model(name)
        found.setdefault(model.generation, []).append(model)
    return dict(sorted(found.items()))


def gain_of(tree: FamilyTree, name: str) -> Difference | None:
    """Merge gain of a child with its standard error: sqrt(child² + (parent 1² + parent 2²) / 4)."""
    gain = tree.gain(name)
    if gain is None:
        return None
    child = tree.model(name)
    return Difference(gain, _combined(child.average_stderr, *(tree.model(p).average_stderr for p in child.parents)))


def task_gain(tree: FamilyTree, name: str, task: str) -> Difference | None:
    """The same as the merge gain, for one task; None for a foundation and where a score is missing."""
    child = tree.model(name)
    scores: list[Score | None] = [child.scores.get(task), *(tree.model(p).scores.get(task) for p in child.parents)]
    known = [score for score in scores if score is not None]
    if len(known) < 3:
        return None
    value = known[0].value - (known[1].value + known[2].value) / 2
    return Difference(value, _combined(*(score.stderr for score in known)))


def lead(tree: FamilyTree) -> Lead | None:
    """What the best model has over the best foundation; None before a foundation is scored."""
    ranking = tree.ranking
    foundation = next((model for model in ranking if model.kind == "foundation"), None)
    if foundation is None:
        return None
    best = ranking[0]
    if best.name == foundation.name:
        return Lead(best, foundation, Difference(0.0, 0.0))
    value = (best.average or 0.0) - (foundation.average or 0.0)
    errors = (best.average_stderr, foundation.average_stderr)
    known = [error for error in errors if error is not None]
    return Lead(best, foundation, Difference(value, math.hypot(*known) if len(known) == len(errors) else None))


def best_by_generation(tree: FamilyTree) -> dict[int, Model | None]:
    """The best model that each generation brought, None where it brought no scored one."""
    found: dict[int, Model | None] = dict.fromkeys(generations(tree))
    for model in tree.ranking:
        if found[model.generation] is None:
            found[model.generation] = model
    return found


def top_kinship(tree: FamilyTree) -> float | None:
    """Kinship of S in the run's metric, where all its pairs are measured."""
    strategy = tree.config.strategy
    return tree.mean_kinship(tree.top(strategy.top_k), strategy.metric)


def effort(tree: FamilyTree) -> Effort:
    """What the run did so far."""
    models = tree.models
    scored = [model for model in models if model.status == "evaluated"]
    return Effort(
        merges=sum(model.kind != "foundation" and model.identity is not None for model in models),
        evaluations=sum(not model.reused for model in scored),
        reused=sum(model.reused for model in scored),
        merge_seconds=math.fsum(model.seconds.get("merge", 0.0) for model in models),
        evaluate_seconds=math.fsum(model.seconds.get("evaluate", 0.0) for model in scored if not model.reused),
    )


def differing_settings(trees: Mapping[str, FamilyTree]) -> list[str]:
    """What differs between runs such that their averages, or their gains, do not compare; empty where all agrees."""
    found: list[str] = []
    for key in _SCORED_BY:
        values = [_plain(getattr(tree.config.evaluation, key)) for tree in trees.values()]
        if any(value != values[0] for value in values[1:]):
            found.append(f"evaluation.{key}")
    starts = [tree.origin for tree in trees.values()]
    if len({frozenset(entry.identity for entry in start.foundations) for start in starts}) > 1:
        found.append("foundation_models")
    if len({start.base.identity for start in starts}) > 1:
        found.append("base_model")
    if len({tuple(sorted(start.data.values())) for start in starts}) > 1:
        found.append("the benchmarks' data files")
    return found


def _plain(value: Any) -> Any:
    """A setting to compare; the order of the tasks does not change an average."""
    return {task.task: task for task in value} if isinstance(value, tuple) else value


def _combined(child: float | None, *parents: float | None) -> float | None:
    known = [error for error in parents if error is not None]
    if child is None or len(known) < len(parents):
        return None
    return math.hypot(child, *(error / 2 for error in known))
