import math

import pytest

from evolve.analysis import better_parent_difference, gain_of, lead

ERROR = 0.012 / math.sqrt(3)  # of an average over three tasks


def test_a_gain_has_the_errors_of_child_and_parents(greedy):
    gain = gain_of(greedy, "model-2-1")
    assert gain.value == pytest.approx(0.0216)
    assert gain.stderr == pytest.approx(ERROR * math.sqrt(1.5))
    assert gain.is_clear is True
    assert gain_of(greedy, "model-3-1").is_clear is False
    assert gain_of(greedy, "model-2-2").is_clear is True  # a loss may be clear too
    assert gain_of(greedy, "Open-chat") is None


def test_a_gain_is_that_of_the_tree(kinship):
    for model in kinship.models:
        gain = gain_of(kinship, model.name)
        assert (gain.value if gain else None) == pytest.approx(kinship.gain(model.name), abs=1e-15)


def test_the_better_parent_is_the_one_with_the_higher_average(kinship):
    difference = better_parent_difference(kinship, "model-3-exp")  # of model-2-1 (68.72) and model-1-1 (62.17)
    assert difference.value == pytest.approx(0.6815 - 0.6872)
    assert difference.stderr == pytest.approx(ERROR * math.sqrt(2))
    assert gain_of(kinship, "model-3-exp").value > 0
    assert better_parent_difference(kinship, "Open-chat") is None
    for model in kinship.models:
        found = better_parent_difference(kinship, model.name)
        expected = kinship.gain_over_better_parent(model.name)
        assert (found.value if found else None) == pytest.approx(expected, abs=1e-15)


def one_child(family):
    run = family().with_foundations()
    run.planned(1, ("model-1-1", "Open-chat", "MetaMath"), ("model-1-2", "MetaMath", "Open-chat"))
    tasks = {"winogrande": 0.10, "gsm8k": -0.10, "truthfulqa_mc2": 0.0}
    for name in ("model-1-1", "model-1-2"):
        run.merged(name).evaluated(name, 66.84, tasks=tasks)
    return run.tree


def test_a_gain_of_a_task_compares_the_scores_of_that_task(family):
    tree = one_child(family)
    gain = gain_of(tree, "model-1-1", "winogrande")
    assert gain.value == pytest.approx(0.0184 + 0.02)
    assert gain.stderr == pytest.approx(0.012 * math.sqrt(1.5))
    assert gain_of(tree, "MetaMath", "winogrande") is None
    assert gain_of(tree, "model-1-1", "another task") is None


@pytest.mark.parametrize("child", ["model-1-1", "model-1-2"])
def test_a_task_is_compared_with_the_parent_of_the_higher_average(family, child):
    found = better_parent_difference(one_child(family), child, "winogrande")
    assert found.value == pytest.approx(0.6684 + 0.10 - (0.6628 + 0.08))
    assert found.stderr == pytest.approx(0.012 * math.sqrt(2))
    assert better_parent_difference(one_child(family), child, "another task") is None


def test_a_difference_has_no_error_where_a_score_has_none(family):
    run = family().evaluated("MetaMath", 63.72, None).evaluated("Instruct", 61.82).evaluated("Open-chat", 66.28)
    run.planned(1, ("model-1-1", "MetaMath", "Instruct"), ("model-1-2", "Open-chat", "Instruct"))
    run.merged("model-1-1").merged("model-1-2").evaluated("model-1-1", 62).evaluated("model-1-2", 67, None)
    for name in ("model-1-1", "model-1-2"):
        for difference in (gain_of(run.tree, name), better_parent_difference(run.tree, name)):
            assert difference.stderr is None
            assert difference.is_clear is None
    assert lead(run.tree).difference.stderr is None


def test_the_lead_is_over_the_best_foundation(greedy, family):
    found = lead(greedy)
    assert (found.best.name, found.foundation.name) == ("model-2-1", "Open-chat")
    assert found.difference.value == pytest.approx(0.0244)
    assert found.difference.stderr == pytest.approx(ERROR * math.sqrt(2))
    assert lead(family().tree) is None


def test_a_foundation_has_no_lead_over_itself(family):
    found = lead(family().with_foundations().tree)
    assert found.best is found.foundation
    assert (found.difference.value, found.difference.stderr, found.difference.is_clear) == (0.0, 0.0, False)
