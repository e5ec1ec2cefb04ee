"""Properties of complete runs with random scores, kinships and failures, compared with an oracle that shares no code.

The oracle reads only the journal. Scores and kinships are small fractions, so that ties are frequent and exact.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
from family_trees import fold
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import evolve
from evolve.config import Config
from evolve.lineage import (
    EvaluateStep,
    Event,
    FamilyTree,
    GenerationPlanned,
    Kinship,
    KinshipMeasured,
    MeasureStep,
    MergeStep,
    ModelDropped,
    ModelEvaluated,
    ModelFailed,
    ModelMerged,
    RungScored,
    RunStarted,
    RunStopped,
    StepRetried,
    Work,
    plan,
    to_node_link,
)

from ._simulation import TASK, Run, Tables, World, make_config, simulate, started

EIGHTHS = st.integers(0, 8).map(lambda n: n / 8)
SIGNED = st.integers(-4, 4).map(lambda n: n / 4)
DISTANCES = st.integers(0, 8).map(lambda n: n / 2)
NAMES = ("alpha", "Bravo", "charlie-7b", "delta", "echo")
FAST = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FEWER = settings(FAST, max_examples=40)


def table(values: st.SearchStrategy[Any], size: int = 9) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(values, min_size=3, max_size=size).map(tuple)


TABLES = st.builds(
    Tables,
    scores=table(EIGHTHS),
    pccs=table(SIGNED),
    css=table(SIGNED),
    eds=table(DISTANCES),
    failures=st.just((None,)) | table(st.sampled_from([None, None, None, "merge", "evaluate", "rung 2"])),
    noise=st.just((0.0,)) | table(st.integers(-4, 4).map(lambda n: n / 32)),
    errors=table(st.integers(0, 4).map(lambda n: n / 64)),
    growth=st.sampled_from([0.5, 0.125, 0.0]),
)


RACES = st.none() | st.fixed_dictionaries(
    {
        "rungs": st.sampled_from([[0.25, 1], [0.05, 0.2, 0.5, 1], [0.25], [0.1, 0.5]]),
        "confidence": st.sampled_from([0.99, 0.9, 0.5]),
    }
)


@st.composite
def configs(draw: st.DrawFn, generations: int = 4, most: int = 5) -> Config:
    metric = draw(st.sampled_from(["pcc", "cs", "ed"]))
    threshold = st.integers(1, 8).map(lambda n: n / 2) if metric == "ed" else st.integers(-4, 4).map(lambda n: n / 4)
    names = draw(st.permutations(NAMES))[: draw(st.integers(2, most))]
    return make_config(
        tuple(names),
        recipes=draw(st.sampled_from([("slerp",), ("slerp",), ("slerp", "linear")])),
        racing=draw(RACES),
        name=draw(st.sampled_from(["kinship", "kinship", "greedy"])),
        metric=metric,
        top_k=draw(st.integers(2, most)),
        pairs_per_generation=draw(st.none() | st.integers(1, 5)),
        stop_at_kinship=draw(st.none() | st.none() | threshold),
        max_generations=draw(st.sampled_from([generations, generations, 2, 1])),
    )


# --------------------------------------------------------------------------------------------------------- the oracle


class Oracle:
    """Replays a journal with plain dictionaries and computes what each decision must have been."""

    def __init__(self, config: Config) -> None:
        self.strategy = config.strategy
        self.recipes = list(config.merge.recipes)
        self.born: dict[str, int] = {}
        self.average: dict[str, Fraction] = {}
        self.failed: set[str] = set()
        self.racing = config.evaluation.racing
        self.race: dict[str, tuple[int, Fraction, float, float]] = {}  # rung, estimate, standard error, influence
        self.raced: set[str] = set()
        self.in_full: set[str] = set()
        self.dropped: set[str] = set()
        self.kinship: dict[frozenset[str], Kinship] = {}
        self.used: list[frozenset[str]] = []
        self.last: GenerationPlanned | None = None

    def check(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, RunStarted):
                self.born |= {foundation.name: 0 for foundation in event.foundations}
            elif isinstance(event, KinshipMeasured):
                self.kinship[frozenset((event.a, event.b))] = event.kinship
            elif isinstance(event, ModelEvaluated):
                self.average[event.model] = Fraction(event.scores[TASK].value)
                self.in_full.add(event.model)
                self.race.pop(event.model, None)
            elif isinstance(event, ModelFailed):
                self.failed.add(event.model)
                self.average.pop(event.model, None)
            elif isinstance(event, RungScored):
                self.check_rung(event)
            elif isinstance(event, ModelDropped):
                assert event.model in self.due()
                self.dropped.add(event.model)
            elif isinstance(event, GenerationPlanned):
                assert self.reason_to_stop() is None
                self.check_generation(event)
            elif isinstance(event, RunStopped):
                assert event.reason == self.reason_to_stop()
                assert event.reason == "failed" or set(self.top()) <= self.in_full
                assert event.generation == self.generation

    def check_rung(self, event: RungScored) -> None:
        """A child goes on only when nobody has to be dropped and all others have come as far."""
        before = self.race[event.model][0] if event.model in self.race else 0
        assert event.rung == before + 1
        assert all(self.race[name][0] if name in self.race else before <= 0 for name in self.living())
        assert event.rung == 1 or not self.due()
        estimate = event.estimates[TASK]
        self.raced.add(event.model)
        self.race[event.model] = (event.rung, Fraction(estimate.value), estimate.stderr, estimate.influence)
        if event.rung == len(self.racing.rungs):
            self.average[event.model] = Fraction(estimate.value)

    def living(self) -> list[str]:
        children = [merge.name for merge in self.last.merges]
        return [n for n in children if n not in self.failed | self.dropped and n not in self.average]

    def due(self) -> set[str]:
        """Return the children that cannot be among the k best; none until all living ones have come as far."""
        living = self.living()
        rungs = {self.race[name][0] if name in self.race else 0 for name in living}
        went_on = any(merge.name in self.average and merge.name in self.raced for merge in self.last.merges)
        if len(rungs) != 1 or rungs == {0} or went_on:
            return set()
        bounds = {name: self.bounds(name) for name in [*self.average, *living]}
        lows = sorted((low for low, _ in bounds.values()), reverse=True)
        k = self.strategy.top_k
        return {name for name in living if len(lows) >= k and bounds[name][1] < lows[k - 1]}

    def bounds(self, name: str) -> tuple[float, float]:
        if name not in self.race:
            return (float(self.average[name]),) * 2
        rung, value, stderr, influence = self.race[name]
        siblings = sum(born == self.born[name] for born in self.born.values())
        shares = self.racing.rungs
        miss = (1 - self.racing.confidence) * shares[rung - 1] / sum(s for s in shares if s < 1) / siblings
        z = NormalDist().inv_cdf(1 - miss)
        half = z * stderr + z * z * influence / 6
        return float(value) - half, float(value) + half

    def known(self, name: str) -> Fraction:
        return self.average[name] if name in self.average else self.race[name][1]

    @property
    def generation(self) -> int:
        return self.last.generation if self.last else 0

    def age(self, name: str) -> tuple[int, str, int, str]:
        """Foundations have no number here; children are numbered, and exploration merges come last."""
        if self.born[name] == 0:
            return (0, name, 0, name)
        number, _, second = name.removeprefix(f"model-{self.born[name]}-").partition("-")
        exploration = number == "exp"
        return (self.born[name], "exp" if exploration else "", int((second or 1) if exploration else number), name)

    def top(self) -> list[str]:
        order = sorted(self.average, key=lambda name: (-self.average[name], self.age(name)))
        return order[: self.strategy.top_k]

    def value(self, a: str, b: str) -> Fraction:
        return Fraction(getattr(self.kinship[frozenset((a, b))], self.strategy.metric))

    def parents(self, a: str, b: str) -> tuple[str, str]:
        if self.known(a) != self.known(b):
            return (a, b) if self.known(a) > self.known(b) else (b, a)
        return (a, b) if self.age(a) < self.age(b) else (b, a)

    def pairs(self) -> list[tuple[str, str]]:
        pool = list(self.average) if self.generation == 0 else self.top()
        fresh = [self.parents(a, b) for a, b in combinations(pool, 2) if frozenset((a, b)) not in self.used]
        fresh.sort(key=lambda p: (-(self.average[p[0]] + self.average[p[1]]) / 2, self.age(p[0]), self.age(p[1])))
        limit = self.strategy.pairs_per_generation or self.strategy.top_k
        return fresh if self.generation == 0 else fresh[:limit]

    def partners(self, planned: list[tuple[str, str]]) -> list[str]:
        if self.strategy.name == "greedy" or self.generation == 0:
            return []
        best = self.top()[0]
        taken = [*self.used, *(frozenset(p) for p in planned)]
        return [
            name for name in [*self.average, *self.dropped] if name != best and frozenset((best, name)) not in taken
        ]

    def reason_to_stop(self) -> str | None:
        if self.last is None:
            return None
        if all(merge.name in self.failed for merge in self.last.merges):
            return "failed"
        top = self.top()
        if self.generation > 1 and set(top) == set(self.last.top):
            return "converged"
        if self.strategy.stop_at_kinship is not None:
            values = [self.value(a, b) for a, b in combinations(top, 2)]
            mean, threshold = 2 * sum(values) / (len(top) * (len(top) - 1)), Fraction(self.strategy.stop_at_kinship)
            if (mean < threshold) if self.strategy.metric == "ed" else (mean > threshold):
                return "saturated"
        pairs = self.pairs()
        if not pairs and not self.partners(pairs):
            return "exhausted"
        return "budget" if self.generation >= self.strategy.max_generations else None

    def check_generation(self, event: GenerationPlanned) -> None:
        top, pairs = self.top(), self.pairs()
        partners = self.partners(pairs)
        assert list(event.top) == top
        number = self.generation + 1
        expected = [(pair, "merge", recipe) for pair in pairs for recipe in self.recipes]
        names = [f"model-{number}-{n}" for n in range(1, len(expected) + 1)]
        if partners:
            values = {name: self.value(top[0], name) for name in partners}
            extreme = max(values.values()) if self.strategy.metric == "ed" else min(values.values())
            partner = min((name for name in partners if values[name] == extreme), key=self.age)
            expected += [(self.parents(top[0], partner), "exploration", recipe) for recipe in self.recipes]
            names += [f"model-{number}-exp" + ("" if n == 1 else f"-{n}") for n in range(1, len(self.recipes) + 1)]
        assert event.generation == number
        assert [(merge.parents, merge.kind, merge.recipe) for merge in event.merges] == expected
        assert [merge.name for merge in event.merges] == names
        planned = {frozenset(merge.parents) for merge in event.merges}
        assert all(len(pair) == 2 for pair in planned)
        assert not planned & set(self.used)
        assert not {parent for merge in event.merges for parent in merge.parents} & self.failed
        self.used += planned
        self.born |= dict.fromkeys(names, number)
        self.last = event


@given(tables=TABLES, config=configs())
@FAST
def test_every_decision_is_the_one_that_the_oracle_makes(tables, config):
    run = simulate(config, tables.world())

    oracle = Oracle(config)
    oracle.check(run.events)
    assert isinstance(run.events[-1], RunStopped)
    assert oracle.born.keys() == {model.name for model in run.tree.models}


# -------------------------------------------------------------------------------------------------------------- order


@given(tables=TABLES, config=configs(generations=3), choices=st.randoms(use_true_random=False))
@FEWER
def test_the_order_of_the_work_does_not_matter(tables, config, choices):
    straight = simulate(config, tables.world())
    shuffled = simulate(config, tables.world(), choices.randrange)

    assert shuffled.generations == straight.generations
    assert shuffled.stop == straight.stop
    assert json.dumps(to_node_link(shuffled.tree)) == json.dumps(to_node_link(straight.tree))


def lane(event: Event) -> str:
    """Events of one lane keep their order: a model is merged before it is scored."""
    return f"{event.a} {event.b}" if isinstance(event, KinshipMeasured) else event.model


def shuffle_outcomes(events: list[Event], random: Any) -> list[Event]:
    """Interleave the outcomes between two decisions in another way.

    Final scores are made after all other outcomes, and those of the second round after those of the first. They keep
    their places; `test_the_order_of_the_work_does_not_matter` takes them in another order.
    """
    done: list[Event] = []
    waiting: dict[str, list[Event]] = {}
    tree = FamilyTree()
    for event in [*events, None]:
        is_final = isinstance(event, ModelEvaluated | ModelFailed | StepRetried) and (
            tree.model(event.model).status == "estimated"
        )
        if event is not None:
            tree.apply(event)
        if not is_final and isinstance(
            event, KinshipMeasured | ModelMerged | RungScored | ModelEvaluated | ModelFailed | StepRetried
        ):
            waiting.setdefault(lane(event), []).append(event)
            continue
        while waiting:
            key = random.choice(sorted(waiting))
            done.append(waiting[key].pop(0))
            if not waiting[key]:
                del waiting[key]
        if event is not None:
            done.append(event)
    return done


@given(tables=TABLES, config=configs(generations=3), random=st.randoms(use_true_random=False), data=st.data())
@FEWER
def test_the_order_of_the_outcomes_does_not_matter(tables, config, random, data):
    events = simulate(config, tables.world()).events
    decisions = [
        n for n, event in enumerate(events) if isinstance(event, GenerationPlanned | ModelDropped | RunStopped)
    ]
    cut = events[: data.draw(st.sampled_from(decisions))]  # just before a decision, after all outcomes

    permuted = shuffle_outcomes(cut, random)

    assert sorted(map(repr, permuted)) == sorted(map(repr, cut))
    assert json.dumps(to_node_link(fold(permuted))) == json.dumps(to_node_link(fold(cut)))
    assert plan(fold(permuted)) == plan(fold(cut)) == events[len(cut)]


# ------------------------------------------------------------------------------------------------------------- purity


def snapshot(tree: FamilyTree) -> str:
    return repr(
        (
            list(tree.graph.nodes(data=True)),
            list(tree.graph.edges(data=True)),
            tree.kinships,
            tree.left_out,
            tree.tops,
            tree.stop,
            tree.started,
            tree.changes,
            tree.config,
        )
    )


@given(tables=TABLES, config=configs(generations=2, most=3))
@FEWER
def test_plan_never_changes_the_tree_and_a_rebuilt_tree_gives_the_same_plan(tables, config):
    events = simulate(config, tables.world()).events

    tree = FamilyTree()
    for count, event in enumerate(events, start=1):
        tree.apply(event)
        before = snapshot(tree)
        decision = plan(tree)
        assert snapshot(tree) == before
        folded = fold(events[:count])
        assert snapshot(folded) == before
        assert plan(folded) == decision


@given(tables=TABLES, config=configs(generations=3), choices=st.randoms(use_true_random=False))
@FEWER
def test_plan_requests_each_step_once_and_no_finished_step(tables, config, choices):
    world, tree, asked = tables.world(), FamilyTree(), []
    tree.apply(started(config))
    while not isinstance(decision := plan(tree), RunStopped):
        if not isinstance(decision, Work):
            tree.apply(decision)
            continue
        assert decision.steps
        assert len(set(decision.steps)) == len(decision.steps)
        for step in decision.steps:
            match step:
                case MergeStep(name):
                    assert tree.model(name).status == "planned"
                case EvaluateStep(name):
                    assert tree.model(name).status in {"merged", "racing", "estimated"}
                case MeasureStep(pairs):
                    assert pairs
                    assert len({frozenset(pair) for pair in pairs}) == len(pairs)
                    assert all(a != b and tree.kinship(b, a) is None for a, b in pairs)
        step = decision.steps[choices.randrange(len(decision.steps))]
        asked.append(step)
        for event in world.outcomes(tree, step):
            tree.apply(event)
    assert len(set(asked)) == len(asked)


@given(tables=TABLES, config=configs(generations=3))
@FEWER
def test_failed_children_take_no_part_and_their_pair_is_not_tried_again(tables, config):
    run = simulate(config, tables.world())
    failed = {event.model for event in run.events if isinstance(event, ModelFailed)}
    assume(failed)

    uses = [frozenset(merge.parents) for event in run.generations for merge in event.merges]
    for name in failed:
        model = run.tree.model(name)
        assert (model.status, model.average, model.reason) == ("failed", None, "it broke")
        assert run.tree.gain(name) is None
        assert name not in run.tree.top(1000)
        assert not any(name in event.top for event in run.generations)
        assert not any(name in parents for parents in uses)
        assert uses.count(frozenset(model.parents)) == len(config.merge.recipes)
        assert not any(name in pair for pair in run.tree.kinships)


# ---------------------------------------------------------------------------------------------------------------- ends


@given(
    tables=TABLES,
    foundations=st.integers(2, 4),
    top_k=st.integers(2, 4),
    strategy=st.sampled_from(["kinship", "greedy"]),
)
@FEWER
def test_a_run_without_budget_and_threshold_stops(tables, foundations, top_k, strategy):
    config = make_config(NAMES[:foundations], name=strategy, top_k=top_k, stop_at_kinship=None, max_generations=100_000)

    run = simulate(config, replace(tables, growth=0.0).world(), limit=3000)

    assert run.stop.reason in {"converged", "exhausted", "failed"}


def scores(**of: float) -> World:
    """Return a world of scores by name; other models score 0.1."""
    return World(score=lambda model: of.get(model.name.replace("-", "_"), 0.1))


def stop_of(world: World, foundations: tuple[str, ...] = ("A", "B", "C"), **strategy: Any) -> Run:
    return simulate(make_config(foundations, **strategy), world)


def test_converged_when_no_child_enters_the_best():
    run = stop_of(scores(A=0.5, B=0.6, C=0.7), stop_at_kinship=None)

    assert (run.stop.reason, run.stop.generation) == ("converged", 2)
    assert "C, B, A" in run.stop.detail


def test_generation_2_explores_although_no_child_of_generation_1_is_among_the_best():
    run = stop_of(scores(A=0.5, B=0.6, C=0.7, model_2_exp=0.9), stop_at_kinship=None, max_generations=2)

    assert [merge.kind for merge in run.generations[1].merges] == ["exploration"]
    assert run.tree.top(1) == ("model-2-exp",)
    assert run.stop.reason == "budget"


def test_greedy_is_exhausted_when_no_child_of_generation_1_is_among_the_best():
    run = stop_of(scores(A=0.5, B=0.6, C=0.7), name="greedy", stop_at_kinship=None)

    assert (run.stop.reason, run.stop.generation) == ("exhausted", 1)


def test_saturation_is_checked_after_generation_1_even_if_the_best_did_not_change():
    world = scores(A=0.5, B=0.6, C=0.7)
    world.kinship = lambda _: Kinship(pcc=0.95, cs=0.0, ed=0.0)

    run = stop_of(world)

    assert (run.stop.reason, run.stop.generation) == ("saturated", 1)


def test_a_child_as_good_as_a_foundation_does_not_replace_it():
    run = stop_of(World(score=lambda _: 0.5), stop_at_kinship=None)

    assert (run.stop.reason, run.stop.generation) == ("converged", 2)
    assert run.tree.top(3) == ("A", "B", "C")


def test_saturated_when_the_best_are_more_similar_than_the_threshold():
    close = Kinship(pcc=0.91, cs=-0.9, ed=0.1)
    world = World(score=scores(A=0.5, B=0.6, C=0.7, model_1_1=0.8).score, kinship=lambda _: close)

    run = stop_of(world)

    assert (run.stop.reason, run.stop.generation) == ("saturated", 1)
    assert "0.9100" in run.stop.detail


def test_a_kinship_equal_to_the_threshold_does_not_saturate():
    at = Kinship(pcc=0.75, cs=0.0, ed=0.0)
    world = World(score=scores(A=0.5, B=0.6, C=0.7, model_1_1=0.8).score, kinship=lambda _: at)

    assert stop_of(world, stop_at_kinship=0.75).stop.reason != "saturated"
    assert stop_of(world, stop_at_kinship=0.74).stop.reason == "saturated"


@pytest.mark.parametrize(("distance", "saturated"), [(1.5, True), (2.0, False), (2.5, False)])
def test_with_ed_a_run_is_saturated_when_the_mean_is_below_the_threshold(distance, saturated):
    apart = Kinship(pcc=0.99, cs=0.99, ed=distance)
    world = World(score=scores(A=0.5, B=0.6, C=0.7, model_1_1=0.8).score, kinship=lambda _: apart)

    run = stop_of(world, metric="ed", stop_at_kinship=2.0)

    assert (run.stop.reason == "saturated") is saturated
    assert ("below 2" in run.stop.detail) is saturated


def test_saturation_uses_the_mean_over_all_pairs_of_the_best():
    """Of the three pairs two are at 0.85 and one at 0.99: the mean is 0.8967, below 0.9; at 1.0 it is 0.9."""
    world = World(
        score=scores(A=0.5, B=0.6, C=0.7, model_1_1=0.8).score,
        kinship=lambda names: Kinship(pcc=0.99 if names == {"C", "B"} else 0.85, cs=0.0, ed=0.0),
    )

    assert stop_of(world, stop_at_kinship=0.9, max_generations=1).stop.reason == "budget"
    assert stop_of(world, stop_at_kinship=0.89, max_generations=1).stop.reason == "saturated"


def plan_after_generation_1(strategy: str) -> Any:
    """Return the plan after a generation 1 that merged every pair of S and brought no new model into S."""
    config = make_config(("A", "B", "C"), name=strategy, stop_at_kinship=None)
    tree = FamilyTree()
    for event in simulate(config, scores(A=0.5, B=0.6, C=0.7)).events:
        if isinstance(event, ModelMerged) and event.model.startswith("model-2-"):
            break
        if not isinstance(event, RunStopped) and not (isinstance(event, GenerationPlanned) and event.generation == 2):
            tree.apply(event)
    return plan(tree)


def test_exhausted_when_no_pair_is_left():
    decision = plan_after_generation_1("greedy")

    assert isinstance(decision, RunStopped)
    assert (decision.reason, decision.generation) == ("exhausted", 1)
    assert "C, B, A" in decision.detail


def test_not_exhausted_while_the_best_model_has_an_exploration_partner():
    decision = plan_after_generation_1("kinship")

    assert isinstance(decision, GenerationPlanned)
    assert [merge.kind for merge in decision.merges] == ["exploration"]


def test_budget_when_the_generations_are_used_up():
    run = stop_of(scores(A=0.5, B=0.6, C=0.7, model_1_1=0.8), stop_at_kinship=None, max_generations=1)

    assert (run.stop.reason, run.stop.generation) == ("budget", 1)
    assert "strategy.max_generations is 1" in run.stop.detail


def test_failed_when_every_child_of_a_generation_failed():
    world = scores(A=0.5, B=0.6, C=0.7, model_1_1=0.8)
    world.failure = lambda name: "evaluate" if name.startswith("model-2-") else None

    run = stop_of(world, stop_at_kinship=None)

    assert (run.stop.reason, run.stop.generation) == ("failed", 2)
    assert "it broke" in run.stop.detail


def test_a_generation_continues_without_its_failed_children():
    world = scores(A=0.5, B=0.6, C=0.7, model_1_2=0.8)
    world.failure = lambda name: "merge" if name in {"model-1-1", "model-1-3"} else None

    run = stop_of(world, stop_at_kinship=None)

    assert run.tree.top(3) == ("model-1-2", "C", "B")
    assert run.stop.generation == 2


# -------------------------------------------------------------------------------------------------------- exploration


def exploring(metric: str, kinships: dict[str, float]) -> Run:
    """Three foundations and three better children; `kinships` are those of the best, model-1-1."""
    order = {"model-1-1": 0.9, "model-1-2": 0.8, "model-1-3": 0.7, "A": 0.6, "B": 0.5, "C": 0.4, "D": 0.3}

    def kinship(names: frozenset[str]) -> Kinship:
        (other,) = names - {"model-1-1"} if "model-1-1" in names else {""}
        value = kinships.get(other, 0.5)
        return Kinship(**{"pcc": 0.5, "cs": 0.5, "ed": 0.5, metric: value})

    world = World(score=lambda model: order.get(model.name, 0.1), kinship=kinship)
    return stop_of(world, ("A", "B", "C", "D"), metric=metric, stop_at_kinship=None, max_generations=2)


@pytest.mark.parametrize("metric", ["pcc", "cs"])
def test_the_exploration_partner_is_the_least_similar_and_may_have_a_negative_kinship(metric):
    run = exploring(metric, {"C": 0.1, "D": -0.3, "model-1-4": -0.2, "model-1-2": -0.9})

    explorations = [merge for merge in run.generations[1].merges if merge.kind == "exploration"]
    assert [(merge.name, merge.parents) for merge in explorations] == [("model-2-exp", ("model-1-1", "D"))]


def test_with_ed_the_exploration_partner_is_the_farthest():
    run = exploring("ed", {"C": 3.0, "D": 0.1, "model-1-4": 2.9, "model-1-2": 99.0})

    assert run.generations[1].merges[-1].parents == ("model-1-1", "C")


def test_ties_of_exploration_partners_go_to_the_older_model_then_to_the_name():
    run = exploring("pcc", {"D": 0.0, "C": 0.0, "model-1-4": 0.0})

    assert run.generations[1].merges[-1].parents == ("model-1-1", "C")


def test_ties_go_to_the_smaller_number_in_a_name():
    """Five foundations have ten pairs. As strings `model-1-10` comes before `model-1-2`."""
    tied = {"model-1-2", "model-1-10"}
    run = stop_of(
        World(score=lambda model: 0.9 if model.name in tied else 0.1),
        ("A", "B", "C", "D", "E"),
        top_k=2,
        stop_at_kinship=None,
        max_generations=2,
    )

    assert run.generations[1].top == ("model-1-2", "model-1-10")
    assert run.generations[1].merges[0].parents == ("model-1-2", "model-1-10")


# ------------------------------------------------------------------------------------------------------ reproducibility


def test_fresh_processes_with_other_hash_seeds_write_the_same_journal():
    script = Path(__file__).with_name("_simulation.py")
    root = Path(evolve.__file__).parents[1]

    journals = []
    for seed in ("0", "1", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
        done = subprocess.run(
            [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True
        )
        journals.append(done.stdout)

    assert journals[0].count("generation_planned") >= 3
    assert "model_failed" in journals[0]
    assert journals[1:] == journals[:1] * 2
