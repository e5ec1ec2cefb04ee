"""The bounds of a race, and what the tree and the plan make of rungs, drops and estimates."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from family_trees import fold

from evolve.lineage import (
    EvaluateStep,
    Event,
    FamilyTree,
    Interval,
    ModelDropped,
    RunContinued,
    RunStopped,
    SettingsChanged,
    Work,
    interval,
    plan,
    threshold,
)

from ._examples import generation, merge
from ._simulation import World, evaluated, failed, make_config, measured, merged, rung_scored, simulate, started

RUNGS = (0.1, 0.4, 1.0)
CONFIG = make_config(("A", "B", "C"), top_k=2, racing={"rungs": list(RUNGS)})
KINSHIPS = [measured("A", "B", 0.1), measured("A", "C", 0.1), measured("B", "C", 0.1)]
BEGUN = [started(CONFIG), *KINSHIPS, evaluated("A", 0.5), evaluated("B", 0.75), evaluated("C", 0.25)]
CHILDREN = generation(merge("model-1-1", "B", "A"), merge("model-1-2", "B", "C"), merge("model-1-3", "A", "C"))
RACING = [*BEGUN, CHILDREN, *(merged(f"model-1-{n}") for n in (1, 2, 3))]


def at(rung: int, *values: float, stderr: float = 0.01) -> list[object]:
    return [rung_scored(f"model-1-{n}", rung, RUNGS[rung - 1], v, stderr) for n, v in enumerate(values, start=1)]


def steps(tree: FamilyTree) -> list[tuple[str, int | None]]:
    decision = plan(tree)
    assert isinstance(decision, Work)
    return [(step.model, step.rung) for step in decision.steps if isinstance(step, EvaluateStep)]


# ---------------------------------------------------------------------------------------------------------- the bounds


def bounds(
    rung: int, stderr: float = 0.01, influence: float = 0.0, *, children: int = 3, confidence: float = 0.99
) -> Interval:
    return interval(0.5, stderr, influence, rungs=RUNGS, rung=rung, children=children, confidence=confidence)


def test_the_bounds_lie_around_the_estimate_and_share_the_error_allowed():
    """Of 1% a third is for each child, of that 4/5 for the rung of 0.4 beside one of 0.1, on one side: z is 2.786."""
    assert bounds(2).high - 0.5 == pytest.approx(0.5 - bounds(2).low)
    assert bounds(2).high - 0.5 == pytest.approx(0.027860, abs=1e-5)
    assert bounds(1).high > bounds(2).high
    assert bounds(1, children=9).high > bounds(1).high > bounds(1, confidence=0.9).high


def test_an_estimate_without_error_has_itself_as_both_bounds():
    assert bounds(1, 0.0) == Interval(0.5, 0.5)


def test_the_influence_of_one_item_widens_the_bounds():
    """The quantile of skewness s is about z + z**2 * s / 6; z is 2.786, and s is 0.006 / 0.01."""
    assert bounds(2, influence=0.006).high - 0.5 == pytest.approx(0.02786 + 2.786**2 * 0.001, abs=1e-5)
    assert bounds(2, 0.0, 0.006).low < 0.5 < bounds(2, 0.0, 0.006).high


def test_the_bounds_never_cross():
    assert bounds(2, children=1, confidence=0.01) == Interval(0.5, 0.5)


def test_a_confidence_next_to_one_has_wide_bounds():
    found = bounds(1, confidence=1 - 2**-53)
    assert 0.5 + 0.01 * 8 < found.high < 0.5 + 0.01 * 40
    assert interval(0.5, 0.01, 0.0, rungs=(5e-324, 0.5), rung=1, children=1, confidence=0.99).high < 1


def test_the_threshold_is_the_kth_best_lower_bound():
    found = [Interval(0.1, 0.9), Interval(0.5, 0.5), Interval(0.3, 0.4)]
    assert [threshold(found, k) for k in (1, 2, 3, 4)] == [0.5, 0.3, 0.1, None]


def test_a_model_among_the_best_is_dropped_no_more_often_than_the_confidence_allows():
    """Children close to the k-th best, with normal errors: 2,000 generations, at most 10% of them with a wrong drop."""
    rng, wrong, dropped = random.Random(0), 0, 0
    rungs = (0.05, 0.2, 0.5, 1.0)
    for _ in range(2000):
        older = [rng.gauss(0.5, 0.02) for _ in range(3)]
        truth = {n: rng.gauss(0.49, 0.03) for n in range(4)}
        best = sorted([*older, *truth.values()])[-3:]
        living, was_wrong = dict(truth), False
        for number, share in enumerate(rungs[:-1], start=1):
            stderr = 0.02 * ((1 - share) / share / 20) ** 0.5
            found = {
                n: interval(rng.gauss(t, stderr), stderr, 0.0, rungs=rungs, rung=number, children=4, confidence=0.9)
                for n, t in living.items()
            }
            least = threshold([*(Interval(v, v) for v in older), *found.values()], 3)
            for n in [n for n, bound in found.items() if least is not None and bound.high < least]:
                dropped += 1
                was_wrong |= living.pop(n) in best
        wrong += was_wrong
    assert dropped > 2000
    assert wrong <= 0.1 * 2000


# ------------------------------------------------------------------------------------------------------------ the plan


def test_foundations_are_scored_in_full_and_children_by_rungs():
    assert steps(fold([started(CONFIG), *KINSHIPS])) == [("A", None), ("B", None), ("C", None)]
    assert steps(fold(RACING)) == [("model-1-1", 1), ("model-1-2", 1), ("model-1-3", 1)]


def test_children_wait_for_each_other():
    tree = fold([*RACING, *at(1, 0.8)])
    assert steps(tree) == [("model-1-2", 1), ("model-1-3", 1)]
    tree = fold([*RACING, *at(1, 0.8, 0.8, 0.8)])
    assert steps(tree) == [("model-1-1", 2), ("model-1-2", 2), ("model-1-3", 2)]


def test_a_child_below_the_kth_best_lower_bound_is_dropped_and_the_others_go_on():
    tree = fold([*RACING, *at(1, 0.8, 0.4, 0.8)])
    decision = plan(tree)
    assert isinstance(decision, ModelDropped)
    assert (decision.model, decision.rung) == ("model-1-2", 1)
    assert decision.high < decision.least
    tree.apply(decision)
    model = tree.model("model-1-2")
    assert (model.status, model.average, model.known_average) == ("dropped", None, 0.4)
    assert steps(tree) == [("model-1-1", 2), ("model-1-3", 2)]


def test_the_last_rung_is_a_full_score():
    tree = fold([*RACING, *at(1, 0.8, 0.8, 0.8), *at(2, 0.8, 0.8, 0.8)])
    assert steps(tree) == [("model-1-1", None), ("model-1-2", None), ("model-1-3", None)]


def test_nobody_is_dropped_while_others_have_a_full_score_already():
    """Otherwise it would matter which of two children is scored first."""
    scored = fold([*RACING, *at(1, 0.8, 0.8, 0.74), *at(2, 0.8, 0.8, 0.74), evaluated("model-1-1", 0.99)])
    scored.apply(evaluated("model-1-2", 0.99))
    assert steps(scored) == [("model-1-3", None)]


def test_failed_children_are_not_waited_for():
    tree = fold([*RACING, *at(1, 0.8, 0.8), failed("model-1-3", "evaluate")])
    assert steps(tree) == [("model-1-1", 2), ("model-1-2", 2)]


@pytest.mark.parametrize("racing", [None, {"rungs": [0.1]}, {"rungs": list(RUNGS), "confidence": 0.5}])
def test_racing_cannot_be_changed_by_an_event(racing: dict[str, object] | None):
    tree = fold([*RACING, *at(1, 0.8, 0.8, 0.8)])
    other = make_config(("A", "B", "C"), top_k=2, racing=racing)
    with pytest.raises(ValueError, match="keeps its foundations, its tasks, its recipes and its racing"):
        tree.apply(SettingsChanged(changes={}, config=other.model_dump(mode="json")))
    assert steps(tree)


def test_times_of_rungs_add_up():
    tree = fold([*RACING, *at(1, 0.8, 0.8, 0.8), *at(2, 0.8), evaluated("model-1-2", 0.5)])
    assert tree.model("model-1-1").seconds["evaluate"] == 1.0
    assert tree.model("model-1-2").seconds["evaluate"] == 3.0


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (rung_scored("model-1-1", 2, 0.4, 0.5), "rung 2 with the share 0.4 is not its next one"),
        (rung_scored("model-1-1", 1, 0.4, 0.5), "rung 1 with the share 0.4 is not its next one"),
        (ModelDropped(model="model-1-1", rung=1, high=0.1, least=0.2), "is merged and not racing"),
        (rung_scored("model-9-9", 1, 0.1, 0.5), "there is no model model-9-9"),
    ],
)
def test_events_of_a_race_that_contradict_the_tree_are_refused(event, message):
    with pytest.raises(ValueError, match=message):
        fold(RACING).apply(event)


def test_a_dropped_child_cannot_be_scored_and_a_run_without_racing_has_no_rungs():
    tree = fold([*RACING, *at(1, 0.8, 0.4, 0.8)])
    tree.apply(plan(tree))
    with pytest.raises(ValueError, match="is dropped and not"):
        tree.apply(evaluated("model-1-2", 0.9))
    plain = make_config(("A", "B", "C"), top_k=2)
    tree = fold([started(plain), *RACING[1:]])
    with pytest.raises(ValueError, match="does not race"):
        tree.apply(rung_scored("model-1-1", 1, 0.1, 0.5))


# ------------------------------------------------------------------------------------------------------- whole runs


def test_a_dropped_child_may_be_an_exploration_partner():
    scores = {"A": 0.5, "B": 0.6, "C": 0.7, "model-1-1": 0.9, "model-1-2": 0.1, "model-1-3": 0.1}
    world = World(score=lambda model: scores.get(model.name, 0.05))
    close = measured("A", "B", 0.9).kinship
    far = measured("A", "B", -0.5).kinship
    world.kinship = lambda names: far if names == {"model-1-1", "model-1-2"} else close
    config = make_config(("A", "B", "C"), top_k=2, racing={"rungs": [0.2, 1]}, stop_at_kinship=None, max_generations=2)

    run = simulate(config, world)

    assert run.tree.model("model-1-2").status == "dropped"
    assert run.generations[1].merges[-1].parents == ("model-1-1", "model-1-2")
    child = run.tree.model("model-2-exp")
    assert run.tree.gain(child.name) is None or child.known_average is not None


def test_estimates_take_part_and_the_best_are_scored_before_the_end():
    world = World(score=lambda model: {"A": 0.5, "B": 0.6, "C": 0.7}.get(model.name, 0.55))
    world.estimate = lambda model, rung: (0.8, 0.01)
    config = make_config(("A", "B", "C"), top_k=2, racing={"rungs": [0.2]}, stop_at_kinship=None, max_generations=1)

    run = simulate(config, world)

    assert isinstance(run.events[-1], RunStopped)
    assert run.tree.top(2) == ("C", "B")
    statuses = [run.tree.model(name).status for name in run.tree.top(2)]
    assert statuses == ["evaluated"] * 2
    assert all(model.status == "evaluated" for model in run.tree.models)


@pytest.mark.parametrize("end", [evaluated("model-1-1", 0.5), failed("model-1-1", "evaluate")], ids=["lower", "failed"])
def test_a_final_score_does_not_end_the_scoring_of_the_others(end: Event):
    """With it alone the best two would be others, and a generation more could be planned from an estimate."""
    config = make_config(("A", "B", "C"), top_k=2, racing={"rungs": [0.25]}, stop_at_kinship=None, max_generations=1)
    rungs = [rung_scored(f"model-1-{n}", 1, 0.25, value) for n, value in enumerate((0.9, 0.8, 0.78), start=1)]
    tree = fold([started(config), *RACING[1:], *rungs])
    assert steps(tree) == [("model-1-1", None), ("model-1-2", None)]
    tree.apply(end)
    assert steps(tree) == [("model-1-2", None)]
    tree.apply(evaluated("model-1-2", 0.8))
    assert steps(tree) == [("model-1-3", None)]  # now one of the best two
    tree.apply(evaluated("model-1-3", 0.78))
    assert isinstance(plan(tree), RunStopped)


def test_the_order_of_final_scores_does_not_decide_whether_a_run_goes_on():
    """Either full score alone leaves the run unsaturated, and both together end it."""
    names = ("A", "B", "C")
    config = make_config(names, top_k=2, racing={"rungs": [0.25]}, stop_at_kinship=0.5, max_generations=5)
    rungs = [rung_scored(f"model-1-{n}", 1, 0.25, value) for n, value in enumerate((0.9, 0.8, 0.1), start=1)]
    kinships = [
        measured("model-1-1", "model-1-2", 0.9),
        measured("model-1-1", "B", 0.2),
        measured("model-1-2", "B", 0.2),
    ]
    ends = [evaluated("model-1-1", 0.85), evaluated("model-1-2", 0.83)]
    lower = [evaluated("model-1-1", 0.7), evaluated("model-1-2", 0.72)]
    for first, second in (ends, ends[::-1], lower, lower[::-1]):
        tree = fold([started(config), *RACING[1:], *rungs, *kinships])
        assert {model for model, _ in steps(tree)} == {"model-1-1", "model-1-2"}
        tree.apply(first)
        assert steps(tree) == [(second.model, None)]


def test_a_failed_run_that_continues_races_from_the_first_rung():
    events = [*RACING, *at(1, 0.8, 0.8, 0.8), *(failed(f"model-1-{n}", "evaluate") for n in (1, 2, 3))]
    tree = fold(events)
    stop = plan(tree)
    assert isinstance(stop, RunStopped)
    tree.apply(stop)
    tree.apply(RunContinued(reason="again", retried=("model-1-1", "model-1-2", "model-1-3")))
    assert steps(tree) == [("model-1-1", 1), ("model-1-2", 1), ("model-1-3", 1)]


def test_a_run_whose_rung_was_recorded_goes_on_with_the_next():
    run = simulate(CONFIG, World(score=lambda model: 0.5 + 0.01 * model.generation))
    for before, after in pairwise(range(1, len(run.events))):
        assert plan(fold(run.events[:before])) is not None
        assert fold(run.events[:after]).history[-1].event == run.events[after - 1]
