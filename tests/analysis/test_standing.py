from typing import get_args

from evolve.analysis import STATES, State, best_by_generation, by_state, generations, state_of, top_kinship
from evolve.lineage import Status


def test_every_status_has_one_state():
    assert set(STATES) == set(get_args(Status))
    assert set(STATES.values()) == set(get_args(State))


def test_models_are_grouped_by_state(family):
    run = family().with_foundations()
    run.planned(1, *((f"model-1-{n}", "Open-chat", "MetaMath") for n in (1, 2, 3)))
    tree = run.merged("model-1-1").failed("model-1-2", "no").tree
    found = by_state(tree.models)
    assert {state: [model.name for model in models] for state, models in found.items()} == {
        "scored": ["Instruct", "MetaMath", "Open-chat"],
        "estimated": [],
        "racing": [],
        "to score": ["model-1-1"],
        "to merge": ["model-1-3"],
        "dropped": [],
        "failed": ["model-1-2"],
    }
    assert state_of(tree.model("model-1-1")) == "to score"


def test_models_of_a_generation_are_in_the_order_planned(family):
    names = [f"model-1-{n}" for n in range(1, 4)]
    run = family().with_foundations().planned(1, *((n, "Open-chat", "MetaMath") for n in [*names, "model-1-10"]))
    run.merged("model-1-3")
    assert [m.name for m in generations(run.tree)[1]] == [*names, "model-1-10"]
    assert [m.name for m in generations(run.tree)[0]] == ["MetaMath", "Instruct", "Open-chat"]


def test_the_best_of_a_generation_is_one_of_its_own_models(family, greedy):
    best = {generation: model.name for generation, model in best_by_generation(greedy).items()}
    assert best == {0: "Open-chat", 1: "model-1-3", 2: "model-2-1", 3: "model-3-1", 4: "model-4-3"}
    run = family().with_foundations().planned(1, ("model-1-1", "Open-chat", "MetaMath"))
    assert best_by_generation(run.tree)[1] is None


def test_the_kinship_of_the_best_is_in_the_metric_of_the_run(family):
    strategy = {"metric": "ed", "stop_at_kinship": None, "top_k": 2}
    run = family(strategy=strategy).with_foundations()
    assert top_kinship(run.tree) is None
    run.measured("Open-chat", "MetaMath", 0.5, ed=7.0)
    assert top_kinship(run.tree) == 7.0
