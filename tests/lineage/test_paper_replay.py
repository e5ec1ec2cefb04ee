"""Our selection makes exactly the merges of the paper's two experiments.

The numbers are facts from arXiv 2410.12613, Table 2 (averages and merge gains of the merges of both experiments) and
Table 9 (the foundations). It prints no parents: they follow from `average - gain = mean of the parents' averages`,
and `residual` is what that equation leaves over, the paper's own rounding and misprints, in points.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import pytest

from evolve.lineage import FamilyTree, Kinship, Model

from ._simulation import Run, World, make_config, simulate

FOUNDATIONS = {"MetaMath": 63.72, "Instruct": 61.82, "Open-chat": 66.28}


class Row(NamedTuple):
    parents: tuple[str, str] | None
    average: float
    gain: float
    pcc: float
    residual: float


# The two experiments share generations 1 and 2; the paper numbers the models of the second on from the first.
SHARED = {
    "model-1-1": Row(("MetaMath", "Instruct"), 62.17, -0.60, 0.01, 0.00),
    "model-1-2": Row(("Instruct", "Open-chat"), 64.02, -0.03, -0.02, 0.00),
    "model-1-3": Row(("MetaMath", "Open-chat"), 66.84, 1.84, 0.05, 0.00),
    "model-2-1": Row(("model-1-3", "Open-chat"), 68.72, 2.16, 0.93, 0.00),
    "model-2-2": Row(("model-1-3", "model-1-2"), 61.47, -3.96, 0.57, 0.00),
    "model-2-3": Row(("Open-chat", "model-1-2"), 61.32, -3.83, 0.58, 0.00),
}
GREEDY = {
    **SHARED,
    "model-3-1": Row(("model-2-1", "Open-chat"), 68.59, 1.09, 0.95, 0.00),
    "model-3-2": Row(("model-2-1", "model-1-3"), 67.74, -0.04, 0.93, 0.00),
    "model-4-1": Row(("model-2-1", "model-3-1"), 68.51, -0.14, 0.98, 0.01),
    "model-4-2": Row(("model-2-1", "model-3-2"), 68.04, -0.19, 0.98, 0.00),
    "model-4-3": Row(("model-3-1", "model-3-2"), 68.53, 0.37, 0.94, 0.01),
}
KINSHIP = {
    **SHARED,
    "model-2-exp": Row(("model-1-3", "Instruct"), 68.11, 3.78, -0.02, 0.00),
    "model-3-2": Row(("model-2-1", "model-1-3"), 67.74, -0.04, 0.93, 0.00),
    "model-3-3": Row(("model-2-1", "model-2-exp"), 69.06, 0.74, 0.24, 0.10),
    "model-3-4": Row(("model-1-3", "model-2-exp"), 68.61, 1.13, 0.32, 0.01),
    "model-3-exp": Row(("model-2-1", "model-1-1"), 68.15, 2.70, 0.03, 0.01),
    "model-4-4": Row(("model-3-3", "model-2-1"), 68.75, -0.14, 0.54, 0.00),
    "model-4-5": Row(("model-2-1", "model-3-4"), 68.39, -0.27, 0.66, 0.01),
    "model-4-6": Row(("model-3-3", "model-3-4"), 69.03, 0.15, 0.52, 0.05),
    "model-4-exp": Row(None, 68.49, 3.42, 0.48, 0.00),  # the partners of the last two do not follow from the numbers
    "model-5-1": Row(("model-3-3", "model-4-6"), 69.13, 0.04, 0.65, 0.05),
    "model-5-2": Row(("model-3-3", "model-4-4"), 68.98, 0.07, 0.65, 0.01),
    "model-5-3": Row(("model-4-6", "model-4-4"), 68.63, -0.37, 0.98, 0.11),
    "model-5-exp": Row(None, 68.36, -0.09, 0.53, 0.00),
}
UNPRINTED = 0.6  # the kinship of pairs that no table prints; above that of every exploration partner


class Paper:
    """The paper's experiment as a world: scores and kinships by the parents that a model of ours has."""

    def __init__(self, table: dict[str, Row]) -> None:
        self.table = table
        self.name_in_paper = {name: name for name in FOUNDATIONS}

    def world(self) -> World:
        return World(score=self.score, kinship=self.kinship)

    def score(self, model: Model) -> float:
        if model.kind == "foundation":
            return FOUNDATIONS[model.name] / 100
        parents = frozenset(self.name_in_paper.get(parent, parent) for parent in model.parents)
        for name, row in self.table.items():
            unknown = row.parents is None and model.kind == "exploration" and name == model.name
            if unknown or (row.parents is not None and frozenset(row.parents) == parents):
                self.name_in_paper[model.name] = name
                return row.average / 100
        raise AssertionError(f"{model.name} merges {sorted(parents)}, which the paper did not")

    def kinship(self, names: frozenset[str]) -> Kinship:
        parents = frozenset(self.name_in_paper[name] for name in names)
        rows = [row for row in self.table.values() if row.parents is not None and frozenset(row.parents) == parents]
        pcc = rows[0].pcc if rows else UNPRINTED
        return Kinship(pcc=pcc, cs=0.0, ed=1.0)

    def ours(self, tree: FamilyTree) -> dict[str, Model]:
        """Our models by their names in the paper."""
        return {paper: tree.model(ours) for ours, paper in self.name_in_paper.items()}


def replay(table: dict[str, Row], strategy: str, generations: int, threshold: float | None = None) -> tuple[Run, Paper]:
    paper = Paper(table)
    config = make_config(
        tuple(FOUNDATIONS), name=strategy, top_k=3, stop_at_kinship=threshold, max_generations=generations
    )
    return simulate(config, paper.world()), paper


EXPERIMENTS = pytest.mark.parametrize(
    ("table", "strategy", "generations"), [(GREEDY, "greedy", 4), (KINSHIP, "kinship", 5)], ids=["greedy", "kinship"]
)


@EXPERIMENTS
def test_each_generation_plans_exactly_the_merges_of_the_paper(table, strategy, generations):
    run, paper = replay(table, strategy, generations)

    assert [event.generation for event in run.generations] == list(range(1, generations + 1))
    for event in run.generations:
        planned = {paper.name_in_paper[merge.name] for merge in event.merges}
        assert planned == {name for name in table if name.split("-")[1] == str(event.generation)}
    assert run.stop.reason == "budget"


@EXPERIMENTS
def test_the_merges_have_the_parents_of_the_paper_and_the_better_one_comes_first(table, strategy, generations):
    run, paper = replay(table, strategy, generations)

    ours = paper.ours(run.tree)
    averages = {**FOUNDATIONS, **{name: row.average for name, row in table.items()}}
    for name, row in table.items():
        if row.parents is not None:
            better_first = sorted(row.parents, key=lambda parent: -averages[parent])
            assert [paper.name_in_paper[parent] for parent in ours[name].parents] == better_first


def test_the_exploration_merges_are_those_of_the_paper():
    run, paper = replay(KINSHIP, "kinship", 5)

    explorations = {model.name for model in run.tree.models if model.kind == "exploration"}
    assert explorations == {"model-2-exp", "model-3-exp", "model-4-exp", "model-5-exp"}
    assert all(paper.name_in_paper[name] == name for name in explorations)


@EXPERIMENTS
def test_gains_are_those_of_the_paper(table, strategy, generations):
    run, paper = replay(table, strategy, generations)

    rounding = 0.015  # of the child's average, of the mean of its parents' and of the gain, 0.005 each
    for name, model in paper.ours(run.tree).items():
        if name in FOUNDATIONS:
            assert run.tree.gain(model.name) is None
        elif table[name].parents is not None:
            gain = run.tree.gain(model.name)
            assert gain is not None
            assert 100 * gain == pytest.approx(table[name].gain, abs=table[name].residual + rounding)


def test_the_kinship_experiment_ends_higher_than_the_greedy_one():
    greedy, _ = replay(GREEDY, "greedy", 4)
    kinship, _ = replay(KINSHIP, "kinship", 5)

    best = [run.tree.model(run.tree.top(1)[0]).average for run in (greedy, kinship)]
    assert best == [pytest.approx(0.6872), pytest.approx(0.6913)]


def saturating_generation(threshold: float) -> int:
    """Return the first generation after which the three best models exceed the threshold, from the table alone."""
    for generation in range(1, 5):
        averages = dict(FOUNDATIONS)
        averages |= {name: row.average for name, row in GREEDY.items() if int(name.split("-")[1]) <= generation}
        best = sorted(averages, key=averages.__getitem__, reverse=True)[:3]
        kinships = [
            row.pcc for pair in combinations(best, 2) for row in GREEDY.values() if set(row.parents or ()) == set(pair)
        ]
        if len(kinships) == 3 and sum(kinships) / 3 > threshold:
            return generation
    raise AssertionError("the table does not say")


@pytest.mark.parametrize(("threshold", "generation", "mean"), [(0.9, 2, "0.9367"), (0.94, 3, "0.9667")])
def test_greedy_saturates_in_the_generation_of_the_table(threshold, generation, mean):
    run, _ = replay(GREEDY, "greedy", 4, threshold)

    assert saturating_generation(threshold) == generation
    assert (run.stop.reason, run.stop.generation) == ("saturated", generation)
    assert mean in run.stop.detail
