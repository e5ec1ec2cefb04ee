"""The plan: a pure function from the family tree and the settings to the next steps.

A run repeats two steps: plan, and carry out the plan. Resuming a run rebuilds the tree and plans again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

from evolve.config import METRICS, Config, StrategyConfig
from evolve.lineage.events import GenerationPlanned, ModelDropped, PlannedMerge, RunStopped
from evolve.lineage.model import Model, Pair, pair
from evolve.lineage.racing import Interval, threshold
from evolve.lineage.selection import Couple, exploration_candidates, fresh_pairs, least_similar
from evolve.lineage.tree import FamilyTree

__all__ = ["EvaluateStep", "MeasureStep", "MergeStep", "Plan", "Step", "Work", "most_children", "plan"]


@dataclass(frozen=True)
class MergeStep:
    """The step that merges a planned child."""

    model: str


@dataclass(frozen=True)
class EvaluateStep:
    """The step that scores a model.

    Attributes:
        rung: The rung of its race, from 1, of which the items are scored; None to score it in full.
    """

    model: str
    rung: int | None = None


@dataclass(frozen=True)
class MeasureStep:
    """The step that measures the kinship of some pairs of models."""

    pairs: tuple[Pair, ...]


Step = MergeStep | EvaluateStep | MeasureStep


@dataclass(frozen=True)
class Work:
    """Steps that can be taken now, in any order or all at once; plan again after any of them."""

    steps: tuple[Step, ...]


Plan = Work | GenerationPlanned | ModelDropped | RunStopped


def plan(tree: FamilyTree) -> Plan:
    """Return the steps to take next, or the decision to record next.

    Args:
        tree: A tree with its foundations; the settings are those of its configuration.

    Returns:
        `Work` with at least one step; or the next generation; or a child to drop; or the end of the run, which is
        `tree.stop` if the run has stopped.
    """
    if tree.stop is not None:
        return tree.stop
    dropped = _next_drop(tree)
    if dropped is not None:
        return dropped
    steps = _open_steps(tree)
    if steps:
        return Work(steps)
    strategy = tree.config.strategy
    decision = _stop_before_planning(tree, strategy) or _next_generation(tree, strategy)
    if isinstance(decision, RunStopped) and decision.reason != "failed":
        # With full scores the best models may be others, and the run may go on.
        estimated = [name for name in tree.top(strategy.top_k) if tree.model(name).status == "estimated"]
        if estimated:
            return Work(tuple(EvaluateStep(name) for name in estimated))
    return decision


def most_children(config: Config, generation: int) -> int:
    """Return the largest number of children that a generation can have."""
    strategy = config.strategy
    if generation == 1:
        pairs = comb(len(config.foundation_models), 2)
    else:
        pairs = min(strategy.pair_limit, comb(strategy.top_k, 2)) + (strategy.name == "kinship")
    return pairs * len(config.merge.recipes)


def _open_steps(tree: FamilyTree) -> tuple[Step, ...]:
    """Return the open steps, those of the oldest first: kinships of parents, merges, evaluations, final scores."""
    steps: list[Step] = []
    # Parents of failed children too: the kinships must not depend on when a child failed.
    pairs = tree.unmeasured_parents
    if tree.generation == 0:
        # Generation 1 merges every pair. A kinship that cannot be measured is found before any time goes into scores.
        pairs += [pair(a.name, b.name) for a, b in combinations(tree.models, 2)]
    unmeasured = _unmeasured(tree, pairs)
    if unmeasured:
        steps.append(MeasureStep(unmeasured))
    models = tree.open_models
    slowest = _slowest(models)
    for model in models:
        if model.status == "planned":
            steps.append(MergeStep(model.name))
        elif model.rungs <= slowest[model.generation]:
            steps.append(EvaluateStep(model.name, _next_rung(tree, model)))
    steps += [EvaluateStep(model.name) for model in tree.finalists]
    return tuple(steps)


def _next_rung(tree: FamilyTree, model: Model) -> int | None:
    """Return the next rung of a child; None if it is to be scored in full."""
    racing = tree.config.evaluation.racing
    if racing is None or model.kind == "foundation" or racing.rungs[model.rungs] == 1:
        return None
    return model.rungs + 1


def _slowest(models: Sequence[Model]) -> dict[int, int]:
    """Return the least number of finished rungs in each generation of open models.

    A child that has finished more waits, so that a drop does not depend on the order of the outcomes.
    """
    slowest: dict[int, int] = {}
    for model in models:
        slowest[model.generation] = min(model.rungs, slowest.get(model.generation, model.rungs))
    return slowest


def _next_drop(tree: FamilyTree) -> ModelDropped | None:
    """Return the oldest child that cannot be among the k best, once all living children have finished a rung.

    Its upper bound is below the k-th best lower bound, so to drop it does not change that bound for the others.
    """
    living = [model for model in tree.open_models if model.generation == tree.generation]
    if not living or len({model.rungs for model in living}) > 1 or living[0].rungs == 0:
        return None
    if any(model.race is not None and model.average is not None for model in tree.children_of(tree.generation)):
        return None  # one has finished the last rung, so the drops of the rung before are made
    intervals = {model.name: _interval(model) for model in [*tree.ranking, *living]}
    least = threshold(intervals.values(), tree.config.strategy.top_k)
    for model in living:
        high = intervals[model.name].high
        if least is not None and high < least:
            return ModelDropped(model=model.name, rung=model.rungs, high=high, least=least)
    return None


def _interval(model: Model) -> Interval:
    """Return the bounds of a model's average; a full score has none beside itself."""
    if model.status != "evaluated" and model.race is not None:
        return model.race.interval
    average = model.average or 0.0
    return Interval(average, average)


def _unmeasured(tree: FamilyTree, pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    return tuple(sorted({p for p in pairs if p not in tree.kinships}))


def _stop_before_planning(tree: FamilyTree, strategy: StrategyConfig) -> RunStopped | Work | None:
    """Return how the generation that is now complete stops the run: failed, converged or saturated; else None.

    `converged` is possible from generation 2 on. In the paper's algorithm S_prev is empty at first, so S counts as
    changed after generation 1, and generation 2 can add an exploration merge.
    """
    generation = tree.generation
    if generation == 0:
        return None
    children = tree.children_of(generation)
    if all(child.status == "failed" for child in children):
        detail = f"every child of generation {generation} failed: {children[0].reason}"
        return RunStopped(reason="failed", generation=generation, detail=detail)
    top = tree.top(strategy.top_k)
    if generation >= 2 and set(top) == set(tree.tops[generation]):
        detail = f"the best {len(top)} models are the same as before generation {generation}: {', '.join(top)}"
        return RunStopped(reason="converged", generation=generation, detail=detail)
    return _saturation(tree, strategy, top)


def _saturation(tree: FamilyTree, strategy: StrategyConfig, top: Sequence[str]) -> RunStopped | Work | None:
    threshold = strategy.stop_at_kinship
    if threshold is None:
        return None
    unmeasured = _unmeasured(tree, [pair(a, b) for a, b in combinations(top, 2)])
    if unmeasured:
        return Work((MeasureStep(unmeasured),))
    metric = METRICS[strategy.metric]
    kinship = tree.mean_kinship(top, metric.name)
    if kinship is None or not metric.is_beyond(kinship, threshold):
        return None
    detail = f"the kinship of {', '.join(top)} is {kinship:.4f} ({metric.name}), {metric.beyond} {threshold:g}"
    return RunStopped(reason="saturated", generation=tree.generation, detail=detail)


def _next_generation(tree: FamilyTree, strategy: StrategyConfig) -> Plan:
    generation = tree.generation + 1
    top = tree.top(strategy.top_k)
    if generation == 1:
        couples = fresh_pairs(tree, [model.name for model in tree.models])
        return _generation(tree, generation, top, couples, None)
    couples = fresh_pairs(tree, top)[: strategy.pair_limit]
    candidates = exploration_candidates(tree, top[0], couples) if strategy.name == "kinship" else []
    if not couples and not candidates:
        detail = f"no pair of {', '.join(top)} is left to merge"
        return RunStopped(reason="exhausted", generation=tree.generation, detail=detail)
    if generation > strategy.max_generations:
        detail = f"strategy.max_generations is {strategy.max_generations}"
        return RunStopped(reason="budget", generation=tree.generation, detail=detail)
    if not candidates:
        return _generation(tree, generation, top, couples, None)
    unmeasured = _unmeasured(tree, [pair(top[0], model.name) for model in candidates])
    if unmeasured:
        return Work((MeasureStep(unmeasured),))
    partner, value = least_similar(tree, top[0], candidates, strategy.metric)
    first, second = sorted((tree.model(top[0]), partner), key=lambda m: (-(m.known_average or 0.0), m.age))
    decision = (
        f"exploration: of {len(candidates)} candidates, {partner.name} is the least similar to the best model, "
        f"{top[0]} ({strategy.metric} {value:.4f})"
    )
    return _generation(tree, generation, top, couples, (Couple(first, second), decision))


def _generation(
    tree: FamilyTree,
    generation: int,
    top: tuple[str, ...],
    couples: Sequence[Couple],
    exploration: tuple[Couple, str] | None,
) -> GenerationPlanned:
    """Name the children in order; with several recipes, each pair has one child by each recipe."""
    recipes = tree.config.merge.recipes
    merges: list[PlannedMerge] = []
    for couple in couples:
        rank = "every pair of foundations" if generation == 1 else f"pair of the best {len(top)}"
        decision = f"{rank}, never merged before; mean of the parents' averages {100 * couple.mean_average:.2f} points"
        for recipe in recipes:
            merges.append(_planned(f"model-{generation}-{len(merges) + 1}", couple, "merge", recipe, decision))
    if exploration is not None:
        couple, decision = exploration
        for number, recipe in enumerate(recipes, start=1):
            suffix = "" if number == 1 else f"-{number}"
            merges.append(_planned(f"model-{generation}-exp{suffix}", couple, "exploration", recipe, decision))
    return GenerationPlanned(generation=generation, top=top, merges=tuple(merges))


def _planned(name: str, couple: Couple, kind: str, recipe: str, decision: str) -> PlannedMerge:
    return PlannedMerge.model_validate(
        {
            "name": name,
            "parents": (couple.first.name, couple.second.name),
            "kind": kind,
            "recipe": recipe,
            "decision": decision,
        }
    )
