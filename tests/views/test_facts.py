import math

import pytest

from evolve.views.facts import (
    best_by_generation,
    differing_settings,
    effort,
    gain_of,
    generations,
    lead,
    task_gain,
    top_kinship,
)

ERROR = 0.012 / math.sqrt(3)  # of an average over three tasks


def test_gain_has_the_errors_of_child_and_parents(greedy):
    gain = gain_of(greedy, "model-2-1")
    assert gain.value == pytest.approx(0.0216)
    assert gain.stderr == pytest.approx(ERROR * math.sqrt(1.5))
    assert gain.is_clear is True
    assert gain_of(greedy, "model-3-1").is_clear is False
    assert gain_of(greedy, "model-2-2").is_clear is True  # a loss may be as clear
    assert gain_of(greedy, "Open-chat") is None


def test_task_gain_is_of_that_task(family):
    told = family().with_foundations().planned(1, ("model-1-1", "Open-chat", "MetaMath")).merged("model-1-1")
    told.evaluated("model-1-1", 66.84, tasks={"winogrande": 0.10, "gsm8k": -0.10, "truthfulqa_mc2": 0.0})
    gain = task_gain(told.tree, "model-1-1", "winogrande")
    assert gain.value == pytest.approx(0.0184 + 0.02)
    assert gain.stderr == pytest.approx(0.012 * math.sqrt(1.5))
    assert task_gain(told.tree, "MetaMath", "winogrande") is None


def test_an_unknown_error_makes_that_of_a_difference_unknown(family):
    told = family().evaluated("MetaMath", 63.72, None).evaluated("Instruct", 61.82).evaluated("Open-chat", 66.28)
    told.planned(1, ("model-1-1", "MetaMath", "Instruct"), ("model-1-2", "Open-chat", "Instruct"))
    told.merged("model-1-1").merged("model-1-2").evaluated("model-1-1", 62).evaluated("model-1-2", 67, None)
    for name in ("model-1-1", "model-1-2"):
        gain = gain_of(told.tree, name)
        assert gain.stderr is None
        assert gain.is_clear is None
    assert lead(told.tree).difference.stderr is None


def test_lead_is_over_the_best_foundation(greedy, family):
    found = lead(greedy)
    assert (found.best.name, found.foundation.name) == ("model-2-1", "Open-chat")
    assert found.difference.value == pytest.approx(0.0244)
    assert found.difference.stderr == pytest.approx(ERROR * math.sqrt(2))
    assert lead(family().tree) is None


def test_a_foundation_has_no_lead_over_itself(family):
    found = lead(family().with_foundations().tree)
    assert found.best is found.foundation
    assert (found.difference.value, found.difference.stderr, found.difference.is_clear) == (0.0, 0.0, False)


def test_models_come_in_the_order_planned(family):
    names = [f"model-1-{n}" for n in range(1, 4)]
    told = family().with_foundations().planned(1, *((n, "Open-chat", "MetaMath") for n in [*names, "model-1-10"]))
    told.merged("model-1-3")
    assert [m.name for m in generations(told.tree)[1]] == [*names, "model-1-10"]
    assert [m.name for m in generations(told.tree)[0]] == ["MetaMath", "Instruct", "Open-chat"]


def test_best_by_generation_is_of_the_children_it_brought(family, greedy):
    best = {generation: model.name for generation, model in best_by_generation(greedy).items()}
    assert best == {0: "Open-chat", 1: "model-1-3", 2: "model-2-1", 3: "model-3-1", 4: "model-4-3"}
    told = family().with_foundations().planned(1, ("model-1-1", "Open-chat", "MetaMath"))
    assert best_by_generation(told.tree)[1] is None


def test_effort_leaves_out_what_the_score_store_gave(family):
    told = family().evaluated("MetaMath", 60, seconds=100, reused=True).evaluated("Instruct", 61, seconds=10)
    told.evaluated("Open-chat", 62, seconds=10)
    told.planned(1, ("model-1-1", "Open-chat", "MetaMath"), ("model-1-2", "Open-chat", "Instruct"))
    told.merged("model-1-1", seconds=5).failed("model-1-1", "no", step="evaluate").failed("model-1-2", "no")
    done = effort(told.tree)
    assert (done.merges, done.evaluations, done.reused) == (1, 2, 1)
    assert (done.merge_seconds, done.evaluate_seconds) == (5, 20)


def test_kinship_of_the_best_is_in_the_metric_of_the_run(family):
    strategy = {"metric": "ed", "stop_at_kinship": None, "top_k": 2}
    told = family(strategy=strategy).with_foundations()
    assert top_kinship(told.tree) is None
    told.akin("Open-chat", "MetaMath", 0.5, ed=7.0)
    assert top_kinship(told.tree) == 7.0


def test_settings_that_change_a_score_are_named(family):
    def differing(**config):
        return differing_settings({"a": family().tree, "b": family(**config).tree})

    tasks = [{"task": "gsm8k", "metric": "exact_match,strict-match"}]
    assert differing(strategy={"name": "greedy"}, evaluation={"batch_size": 4}) == []
    assert differing(evaluation={"limit": 10}) == ["evaluation.limit"]
    assert differing(evaluation={"tasks": tasks}) == ["evaluation.tasks"]
    assert differing(foundations={"A": 1, "B": 2}) == ["foundation_models"]


def test_the_order_of_tasks_and_foundations_changes_nothing(family):
    tasks = [
        {"task": "truthfulqa_mc2", "metric": "acc,none"},
        {"task": "winogrande", "metric": "acc,none"},
        {"task": "gsm8k", "metric": "exact_match,strict-match"},
    ]
    other = family({"Open-chat": 1, "Instruct": 2, "MetaMath": 3}, evaluation={"tasks": tasks}).tree
    assert differing_settings({"a": family().tree, "b": other}) == []
