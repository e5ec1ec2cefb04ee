"""Queries of a family tree."""

from __future__ import annotations

import pytest
from family_trees import fold

from evolve.lineage import (
    FamilyTree,
    Recorded,
    RunContinued,
)

from ._examples import (
    FOUNDED,
    MERGED,
    PLANNED,
    SCORED,
    STOPPED,
    generation,
    merge,
)
from ._simulation import evaluated, failed, make_config, measured, merged, started


def test_the_gain_is_the_average_minus_the_mean_of_the_parents():
    tree = fold([*SCORED, merged("model-1-2")])

    assert tree.gain("model-1-1") == pytest.approx(0.875 - (0.75 + 0.5) / 2)
    assert tree.gain("model-1-2") is None
    assert tree.gain("A") is None


def test_the_gain_over_the_better_parent_is_the_average_minus_the_larger_parent_average():
    tree = fold([*SCORED, merged("model-1-2")])

    assert tree.gain_over_better_parent("model-1-1") == pytest.approx(0.875 - 0.75)
    assert tree.gain_over_better_parent("model-1-2") is None
    assert tree.gain_over_better_parent("A") is None


def test_the_kinship_of_a_set_is_the_mean_over_its_pairs():
    tree = fold([*FOUNDED, measured("B", "A", 0.5, cs=-1.0, ed=2.0), measured("A", "C", -0.25, cs=0.5, ed=4.0)])

    assert tree.mean_kinship(["A", "B"], "pcc") == 0.5
    assert tree.mean_kinship(["A", "B", "C"], "pcc") is None
    assert tree.mean_kinship(["A"], "pcc") is None
    tree.apply(measured("C", "B", 0.5, cs=0.5, ed=6.0))
    for metric, values in {"pcc": (0.5, -0.25, 0.5), "cs": (-1.0, 0.5, 0.5), "ed": (2.0, 4.0, 6.0)}.items():
        assert tree.mean_kinship(["C", "A", "B"], metric) == pytest.approx(2 / (3 * 2) * sum(values))


def test_the_best_come_first_and_ties_go_to_the_older_model():
    tree = fold([*MERGED, evaluated("model-1-1", 0.5), merged("model-1-2"), evaluated("model-1-2", 0.5)])

    assert tree.top(5) == ("B", "A", "model-1-1", "model-1-2", "C")
    assert tree.top(2) == ("B", "A")


def test_models_of_one_generation_are_in_the_order_of_their_numbers_with_explorations_last():
    names = ["model-1-10", "model-1-exp-2", "model-1-2", "model-1-exp", "model-1-1"]
    parents = [("B", "A"), ("B", "C"), ("A", "C"), ("A", "B"), ("C", "A")]
    planned = generation(*(merge(name, *pair_) for name, pair_ in zip(names, parents, strict=True)))
    tree = fold([started(make_config(("C-10", "A", "C-9", "B", "C"))), *FOUNDED[1:], evaluated("C-9", 0.1), planned])

    assert [model.name for model in tree.models] == [
        *("A", "B", "C", "C-9", "C-10"),
        *("model-1-1", "model-1-2", "model-1-10", "model-1-exp", "model-1-exp-2"),
    ]


def test_the_tree_keeps_each_event_with_its_time():
    tree = FamilyTree()
    tree.apply(FOUNDED[0], "2026-01-01T00:00:00+00:00")
    tree.apply(FOUNDED[1])

    assert tree.history == [Recorded("2026-01-01T00:00:00+00:00", FOUNDED[0]), Recorded(None, FOUNDED[1])]


def test_a_model_keeps_the_time_of_each_step():
    tree = fold(FOUNDED)
    tree.apply(PLANNED[-1], "t1")
    tree.apply(merged("model-1-1"), "t2")
    tree.apply(evaluated("model-1-1", 0.5), "t3")
    tree.apply(failed("model-1-2", "merge"), "t4")

    assert tree.model("model-1-1").times == {"planned": "t1", "merged": "t2", "evaluated": "t3"}
    assert tree.model("model-1-2").times == {"planned": "t1", "failed": "t4"}
    assert tree.model("A").times == {}

    tree.apply(STOPPED)
    tree.apply(RunContinued(reason="again", retried=("model-1-2",)), "t5")
    assert tree.model("model-1-2").times == {"planned": "t1"}
