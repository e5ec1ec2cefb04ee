"""The family tree: which events it refuses, and what each event changes."""

from __future__ import annotations

from typing import Any

import pytest
from family_trees import fold

from evolve.config import Config
from evolve.lineage import (
    EvaluateStep,
    FamilyTree,
    GenerationPlanned,
    InputsMoved,
    Kinship,
    MergeStep,
    RunContinued,
    RunStopped,
    SettingsChanged,
    Work,
    plan,
)

from ._examples import (
    CHANGED,
    CONFIG,
    CONTINUED,
    FOUNDED,
    MERGED,
    PLANNED,
    REMADE,
    RETRIED,
    SCORED,
    STOPPED,
    generation,
    merge,
)
from ._simulation import evaluated, failed, make_config, measured, merged, started

STARTED = started(CONFIG)
OTHER_RECIPE = merge("model-1-1", "B", "A").model_copy(update={"recipe": "linear"})


def _changed(config: Config, **sections: Any) -> SettingsChanged:
    return CHANGED.model_copy(update={"config": config.model_dump(mode="json") | sections})


@pytest.mark.parametrize(
    ("events", "event", "message"),
    [
        ([], FOUNDED[1], "one run_started event, which comes first"),
        ([], STOPPED, "one run_started event, which comes first"),
        ([], CHANGED, "one run_started event, which comes first"),
        (FOUNDED, FOUNDED[0], "one run_started event, which comes first"),
        (FOUNDED, generation(merge("model-2-1", "B", "A"), number=2), "generation 2 does not follow generation 0"),
        (PLANNED, generation(merge("model-1-3", "B", "C")), "generation 1 does not follow generation 1"),
        (FOUNDED, generation(merge("model-1-9", "B", "C"), merge("model-1-9", "A", "C")), "model-1-9 is planned twice"),
        (FOUNDED, generation(merge("model-1-9", "A", "Z")), "there is no model Z"),
        (FOUNDED, generation(merge("model-1-9", "A", "A")), "two different"),
        (FOUNDED, generation(merge("model-1-9", "A", "B"), top=("B", "Z")), "there is no model Z"),
        (FOUNDED[:-1], generation(merge("model-1-9", "A", "C")), "needs C, which has no scores"),
        (SCORED, generation(merge("model-2-1", "A", "model-1-2"), number=2), "needs model-1-2, which has no scores"),
        (PLANNED, merged("nobody"), "there is no model nobody"),
        (PLANNED, evaluated("nobody", 0.5), "there is no model nobody"),
        (PLANNED, failed("nobody", "merge"), "there is no model nobody"),
        (PLANNED, measured("A", "nobody", 0.5), "there is no model nobody"),
        (PLANNED, RETRIED.model_copy(update={"model": "nobody"}), "there is no model nobody"),
        (PLANNED, REMADE.model_copy(update={"model": "nobody"}), "there is no model nobody"),
        (PLANNED, merged("A"), "A is evaluated"),
        (FOUNDED[:1], merged("A"), "A is merged and not planned"),
        (MERGED, merged("model-1-1"), "model-1-1 is merged and not planned"),
        (PLANNED, evaluated("model-1-1", 0.5), "model-1-1 is planned and not merged"),
        (SCORED, evaluated("model-1-1", 0.5), "model-1-1 is evaluated and not merged"),
        (SCORED, failed("model-1-1", "evaluate"), "model-1-1 is evaluated"),
        (SCORED, failed("model-1-1", "merge"), "model-1-1 is evaluated"),
        (PLANNED, failed("model-1-1", "evaluate"), "model-1-1 is planned and not merged"),
        ([*PLANNED, failed("model-1-1", "merge")], merged("model-1-1"), "model-1-1 is failed"),
        ([*MERGED, failed("model-1-1", "evaluate")], evaluated("model-1-1", 0.5), "model-1-1 is failed"),
        (FOUNDED[:1], failed("A", "evaluate"), "A is a foundation"),
        (FOUNDED, measured("A", "A", 1.0), "needs two different models"),
        ([*FOUNDED, measured("A", "B", 0.5)], measured("B", "A", 0.6), "measured twice, with different results"),
        (PLANNED, REMADE, "is not that of this child"),
        (MERGED, REMADE.model_copy(update={"identity": "another"}), "is not that of this child"),
        (MERGED, REMADE.model_copy(update={"model": "A", "identity": "id-A"}), "is not that of this child"),
        ([*FOUNDED, STOPPED], STOPPED, "the run has finished"),
        ([*FOUNDED, STOPPED], generation(merge("model-1-9", "A", "B")), "the run has finished"),
        (FOUNDED, CHANGED.model_copy(update={"config": {"base_model": 1}}), "validation error"),
        (FOUNDED, _changed(make_config(("A", "B", "D"), top_k=2)), "keeps its foundations"),
        (FOUNDED, _changed(make_config(("A", "B", "C"), top_k=2, recipes=("linear",))), "keeps .* its recipes"),
        (FOUNDED, _changed(CONFIG, evaluation={"tasks": [{"task": "other"}]}), "keeps .* its tasks"),
        ([], STARTED.model_copy(update={"foundations": STARTED.foundations[:2]}), "not those of its configuration"),
        ([], STARTED.model_copy(update={"recipes": {"linear": "text"}}), "no text of a recipe"),
        (FOUNDED, generation(OTHER_RECIPE), "has the recipe linear, which the configuration does not list"),
        (FOUNDED, CONTINUED, "the run has not stopped"),
        ([*MERGED, STOPPED], CONTINUED.model_copy(update={"retried": ("model-1-1",)}), "is merged and not failed"),
        ([*SCORED, STOPPED], CONTINUED.model_copy(update={"retried": ("model-1-1",)}), "is evaluated and not failed"),
        ([*FOUNDED, STOPPED], CONTINUED.model_copy(update={"retried": ("nobody",)}), "there is no model nobody"),
        (FOUNDED, InputsMoved(paths={"A": "/new/a", "nobody": "/new"}), "there is no model nobody"),
        (MERGED, InputsMoved(paths={"A": "/new/a", "model-1-1": "/new"}), "model-1-1 is not a foundation"),
        ([], InputsMoved(paths={"A": "/new/a"}), "one run_started event, which comes first"),
    ],
)
def test_a_contradicting_event_is_refused_and_changes_nothing(events, event, message):
    tree = fold(events)
    before = repr((vars(tree), list(tree.graph.nodes(data=True)), list(tree.graph.edges)))

    with pytest.raises(ValueError, match=message):
        tree.apply(event)

    assert repr((vars(tree), list(tree.graph.nodes(data=True)), list(tree.graph.edges))) == before


def test_two_foundations_with_the_same_name_are_refused():
    event = started(CONFIG)
    twice = event.model_copy(update={"foundations": (event.foundations[0], event.foundations[0])})

    with pytest.raises(ValueError, match="two foundations have the same name: A, A"):
        fold([twice])


def test_an_empty_tree_has_no_configuration():
    with pytest.raises(ValueError, match="no run_started"):
        _ = FamilyTree().config


def test_a_kinship_may_be_measured_again_with_the_same_result():
    tree = fold([*FOUNDED, measured("A", "B", 0.5), measured("B", "A", 0.5)])

    assert tree.kinships == {("A", "B"): Kinship(pcc=0.5, cs=0.5, ed=1.0)}


def test_a_merged_child_fails_if_its_lost_checkpoint_cannot_be_merged_again():
    tree = fold([*MERGED, failed("model-1-1", "merge", "no room")])

    assert (tree.model("model-1-1").status, tree.model("model-1-1").reason) == ("failed", "no room")


def test_retries_and_repairs_do_not_change_the_status():
    tree = fold([*MERGED, RETRIED, REMADE])

    model = tree.model("model-1-1")
    assert model.status == "merged"
    assert model.retries == ("evaluate: out of memory",)
    assert (model.remade, model.bytes) == (("missing",), 7)
    assert model.attempts == {}
    assert tree.batch_limit == 2


def test_a_retry_counts_as_an_attempt_unless_it_halves_the_batch():
    lost = RETRIED.model_copy(update={"batch_size": None})

    tree = fold([*MERGED, lost, lost])

    assert tree.model("model-1-1").attempts == {"evaluate": 2}
    assert tree.batch_limit is None


def test_the_smallest_batch_is_kept_until_the_setting_changes():
    larger = RETRIED.model_copy(update={"batch_size": 8})
    config = make_config(("A", "B", "C"))
    changed = SettingsChanged(changes={"evaluation.batch_size": (16, 4)}, config=config.model_dump(mode="json"))

    assert fold([*MERGED, RETRIED, larger]).batch_limit == 2
    assert fold([*MERGED, RETRIED, changed]).batch_limit is None


@pytest.mark.parametrize("change", [{"evaluation.batch_size": ("auto", "auto")}, {"device": ("auto", "cpu")}])
def test_the_size_that_auto_found_is_kept_until_the_setting_or_the_device_changes(change):
    config = Config.model_validate(
        CONFIG.model_dump() | {"evaluation": CONFIG.evaluation.model_dump() | {"batch_size": "auto"}}
    )
    changed = SettingsChanged(changes=change, config=config.model_dump(mode="json"))
    begun, found = started(config), evaluated("A", 0.5).model_copy(update={"batch_size": 24})
    another = evaluated("B", 0.4).model_copy(update={"batch_size": 8})

    assert fold([begun]).batch_size == "auto"
    assert fold([begun, found]).batch_size == 24
    assert fold([begun, found, another]).batch_size == 24
    assert fold([begun, found, changed]).batch_size == "auto"
    assert fold([begun, found.model_copy(update={"reused": True})]).batch_size == "auto"


# ----------------------------------------------------------------------------------------------------- changed settings


def raised(generations: int) -> SettingsChanged:
    config = make_config(("A", "B", "C"), top_k=2, stop_at_kinship=None, max_generations=generations)
    return SettingsChanged(
        changes={"strategy.max_generations": (1, generations)}, config=config.model_dump(mode="json")
    )


def changed(key: str) -> SettingsChanged:
    return raised(5).model_copy(update={"changes": {key: (None, 5)}})


@pytest.mark.parametrize("reason", ["converged", "saturated", "exhausted", "budget", "failed"])
@pytest.mark.parametrize("key", ["strategy.max_generations", "strategy.stop_at_kinship", "device"])
def test_a_changed_setting_clears_only_the_stop_that_it_caused(reason, key):
    end = RunStopped(reason=reason, generation=0, detail="")

    tree = fold([*FOUNDED, end, changed(key)])

    assert tree.config.strategy.max_generations == 5
    assert [event.changes for event in tree.changes] == [{key: (None, 5)}]
    if (reason, key) in {("budget", "strategy.max_generations"), ("saturated", "strategy.stop_at_kinship")}:
        assert tree.stop is None
        assert isinstance(plan(tree), Work)
    else:
        assert plan(tree) == tree.stop == end


def test_a_raised_budget_allows_the_next_generation():
    events = [
        *SCORED,
        merged("model-1-2"),
        evaluated("model-1-2", 0.1),
        measured("A", "B", 0.0),
        measured("A", "C", 0.0),
    ]
    events += [RunStopped(reason="budget", generation=1, detail="")]

    assert isinstance(
        plan(fold([*events, raised(2)])), Work
    )  # the kinships of the best model with its possible partners
    again = plan(fold([*events, raised(1)]))
    assert isinstance(again, RunStopped)
    assert (again.reason, again.generation) == ("budget", 1)


def test_a_saturated_run_continues_after_the_threshold_is_removed():
    strategy = {"top_k": 2, "max_generations": 3}
    before = make_config(("A", "B", "C"), stop_at_kinship=0.4, **strategy)
    after = make_config(("A", "B", "C"), stop_at_kinship=None, **strategy)
    pairs = [("A", "B"), ("A", "C"), ("B", "model-1-1"), ("C", "model-1-1"), ("A", "model-1-1")]
    events = [started(before), *SCORED[1:], merged("model-1-2"), evaluated("model-1-2", 0.1)]
    tree = fold([*events, *(measured(a, b, 0.5) for a, b in pairs), measured("model-1-1", "model-1-2", 0.5)])
    stop = plan(tree)
    assert isinstance(stop, RunStopped)
    assert stop.reason == "saturated"
    tree.apply(stop)

    key = "strategy.stop_at_kinship"
    tree.apply(SettingsChanged(changes={key: (0.4, None)}, config=after.model_dump(mode="json")))

    decision = plan(tree)
    assert isinstance(decision, GenerationPlanned)
    assert decision.generation == 2


# ------------------------------------------------------------------------------------------------------ continued runs


def test_a_continued_run_tries_its_failed_models_again():
    retried = RETRIED.model_copy(update={"batch_size": None})
    events = [*MERGED, retried, failed("model-1-1", "evaluate", "no room"), failed("model-1-2", "merge", "no luck")]
    tree = fold([*events, measured("A", "B", 0.0), measured("A", "C", 0.0)])
    stop = plan(tree)
    assert isinstance(stop, RunStopped)
    assert stop.reason == "failed"
    tree.apply(stop)

    tree.apply(RunContinued(reason="there is room again", retried=("model-1-1", "model-1-2")))

    first, second = tree.model("model-1-1"), tree.model("model-1-2")
    assert (first.status, first.reason, first.failed_step, first.attempts) == ("merged", None, None, {})
    assert first.retries == ("evaluate: out of memory", "evaluate: no room")
    assert (second.status, second.retries) == ("planned", ("merge: no luck",))
    assert tree.stop is None
    assert plan(tree) == Work((EvaluateStep("model-1-1"), MergeStep("model-1-2")))


def test_a_failed_model_that_is_not_retried_stays_failed():
    events = [*MERGED, failed("model-1-1", "evaluate"), failed("model-1-2", "merge"), STOPPED]

    tree = fold([*events, RunContinued(reason="again", retried=("model-1-2",))])

    assert tree.model("model-1-1").status == "failed"
    assert tree.model("model-1-2").status == "planned"


def test_moved_inputs_are_found_at_their_new_paths():
    tree = fold([*FOUNDED, InputsMoved(paths={"A": "../models/a"})])

    assert (tree.base_path, tree.model("A").checkpoint) == ("/models/base", "../models/a")
    assert tree.model("B").checkpoint == "/models/B"
    assert (tree.model("A").status, tree.model("A").average) == ("evaluated", 0.5)

    tree.apply(InputsMoved(paths={"base_model": "/new/base", "B": "/new/b"}))
    tree.apply(InputsMoved(paths={"A": "/new/a"}))

    assert tree.base_path == "/new/base"
    assert [tree.model(name).checkpoint for name in "ABC"] == ["/new/a", "/new/b", "/models/C"]
    assert tree.origin.base.path == "/models/base"
