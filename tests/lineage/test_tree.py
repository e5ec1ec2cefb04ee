"""The family tree: what it computes, which events it refuses, and its node-link data."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, replace

import networkx as nx
import pytest

from evolve.config import Config
from evolve.lineage import (
    CheckpointRemade,
    EvaluateStep,
    Event,
    FamilyTree,
    GenerationPlanned,
    InputsMoved,
    Kinship,
    KinshipMeasured,
    MergeStep,
    Model,
    ModelEvaluated,
    PlannedMerge,
    Recorded,
    RunContinued,
    RunStopped,
    Score,
    SettingsChanged,
    StepRetried,
    Work,
    fold,
    pair,
    plan,
    to_node_link,
)

from ._simulation import evaluated, failed, make_config, measured, merged, started

CONFIG = make_config(("A", "B", "C"), top_k=2)
FOUNDED: list[Event] = [started(CONFIG), evaluated("A", 0.5), evaluated("B", 0.75), evaluated("C", 0.25)]


def merge(name: str, first: str, second: str, kind: str = "merge") -> PlannedMerge:
    return PlannedMerge.model_validate(
        {"name": name, "parents": (first, second), "kind": kind, "recipe": "slerp", "decision": "because"}
    )


def generation(*merges: PlannedMerge, number: int = 1, top: tuple[str, ...] = ("B", "A")) -> GenerationPlanned:
    return GenerationPlanned(generation=number, top=top, merges=merges)


PLANNED: list[Event] = [*FOUNDED, generation(merge("model-1-1", "B", "A"), merge("model-1-2", "A", "C"))]
MERGED: list[Event] = [*PLANNED, merged("model-1-1")]
SCORED: list[Event] = [*MERGED, evaluated("model-1-1", 0.875)]


# -------------------------------------------------------------------------------------------------------------- records

FOUNDATION = Model(name="A", generation=0, kind="foundation", parents=(), decision="", status="merged")
CHILD = Model(name="model-1-1", generation=1, kind="merge", parents=("A", "B"), decision="")
SCORES = {"task": Score(metric="acc,none", value=0.5, stderr=None)}


@pytest.mark.parametrize(
    ("model", "change"),
    [
        (FOUNDATION, {"parents": ("B", "C")}),
        (FOUNDATION, {"generation": 1}),
        (CHILD, {"parents": ()}),
        (CHILD, {"parents": ("A",)}),
        (CHILD, {"parents": ("A", "B", "C")}),
        (CHILD, {"parents": ("A", "A")}),
        (CHILD, {"generation": 0}),
        (CHILD, {"status": "failed"}),
        (CHILD, {"status": "failed", "reason": "it broke"}),
        (CHILD, {"failed_step": "merge"}),
        (CHILD, {"reason": "it broke"}),
        (CHILD, {"status": "evaluated"}),
        (CHILD, {"status": "evaluated", "scores": SCORES}),
        (CHILD, {"status": "evaluated", "average": 0.5}),
        (CHILD, {"status": "merged", "scores": SCORES, "average": 0.5}),
        (CHILD, {"status": "failed", "reason": "it broke", "failed_step": "merge", "scores": SCORES, "average": 0.5}),
        (CHILD, {"average_stderr": 0.5}),
        (CHILD, {"status": "evaluated", "scores": SCORES, "average": math.nan}),
        (CHILD, {"status": "evaluated", "scores": SCORES, "average": math.inf}),
        (CHILD, {"status": "evaluated", "scores": SCORES, "average": 0.5, "average_stderr": math.inf}),
    ],
)
def test_a_model_cannot_be_in_an_impossible_state(model, change):
    with pytest.raises(ValueError, match=f"^{model.name}: "):
        replace(model, **change)


def test_a_model_can_be_in_every_possible_state():
    assert replace(CHILD, status="merged").average is None
    assert replace(CHILD, status="failed", reason="it broke", failed_step="merge").reason == "it broke"
    assert replace(CHILD, status="evaluated", scores=SCORES, average=0.5).average == 0.5


def test_records_are_frozen():
    with pytest.raises(FrozenInstanceError):
        CHILD.name = "another"
    with pytest.raises(ValueError, match="frozen"):
        SCORES["task"].value = 1.0


def test_a_pair_is_unordered():
    assert pair("b", "a") == pair("a", "b") == ("a", "b")


# -------------------------------------------------------------------------------------------------------------- numbers


def weighted(weights: dict[str, float]) -> Config:
    raw = make_config(("A", "B")).model_dump(mode="json")
    raw["evaluation"]["tasks"] = [{"task": task, "weight": weight} for task, weight in weights.items()]
    return Config.model_validate(raw)


def with_scores(weights: dict[str, float], **scores: tuple[float, float | None]) -> Model:
    found = {task: Score(metric="acc,none", value=value, stderr=error) for task, (value, error) in scores.items()}
    return fold([started(weighted(weights)), ModelEvaluated(model="A", scores=found, seconds=1.0, batch_size=1)]).model(
        "A"
    )


def test_the_average_is_the_mean_over_the_tasks():
    model = with_scores({"x": 1, "y": 1, "z": 1}, x=(0.1, 0.03), y=(0.2, 0.04), z=(0.6, 0.12))

    assert model.average == pytest.approx(0.3)
    assert model.average_stderr == pytest.approx(0.13 / 3)


def test_the_average_is_weighted_and_so_is_its_standard_error():
    model = with_scores({"x": 3, "y": 1}, x=(0.4, 0.1), y=(0.8, 0.4))

    assert model.average == pytest.approx(0.5)
    assert model.average_stderr == pytest.approx(math.hypot(0.3, 0.4) / 4)


def test_a_lower_is_better_task_has_a_negative_weight():
    raw = weighted({"x": 3, "y": 1}).model_dump(mode="json")
    raw["evaluation"]["tasks"][1]["higher_is_better"] = False
    scores = {
        "x": Score(metric="acc,none", value=0.4, stderr=0.1),
        "y": Score(metric="loss,none", value=0.8, stderr=0.4),
    }
    event = ModelEvaluated(model="A", scores=scores, seconds=1.0, batch_size=1)

    model = fold([started(Config.model_validate(raw)), event]).model("A")

    assert model.average == pytest.approx((3 * 0.4 - 0.8) / 4)
    assert model.average_stderr == pytest.approx(math.hypot(0.3, 0.4) / 4)


def test_the_average_does_not_depend_on_the_order_of_the_tasks():
    values = {"a": (0.1, 0.01), "b": (0.2, 0.02), "c": (0.3, 0.07), "d": (1e-9, 0.0)}
    weights = {"a": 0.3, "b": 0.7, "c": 1.1, "d": 0.9}
    backwards = dict(reversed(values.items()))

    one, other = with_scores(weights, **values), with_scores(weights, **backwards)

    assert (one.average, one.average_stderr) == (other.average, other.average_stderr)


def test_one_missing_standard_error_leaves_the_average_without_one():
    model = with_scores({"x": 1, "y": 1}, x=(0.4, None), y=(0.8, 0.4))

    assert model.average == pytest.approx(0.6)
    assert model.average_stderr is None


@pytest.mark.parametrize("scores", [{"x": (0.5, None)}, {"x": (0.5, None), "y": (0.5, None), "z": (0.5, None)}])
def test_scores_of_tasks_that_are_not_configured_are_refused(scores):
    with pytest.raises(ValueError, match=r"A: has scores of x.* instead of x, y"):
        with_scores({"x": 1, "y": 1}, **scores)


@pytest.mark.parametrize(
    ("weight", "value", "error"),
    [(1e300, 1e308, None), (1.0, 1.5e308, None), (1e300, 0.5, 1e308), (1.0, 0.5, 1e200)],
)
def test_an_average_that_overflows_is_refused(weight, value, error):
    with pytest.raises(ValueError, match="A: its average is not finite"):
        with_scores({"x": weight, "y": weight}, x=(value, error), y=(value, error))


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


# ------------------------------------------------------------------------------------------------------ what is refused

REMADE = CheckpointRemade(model="model-1-1", reason="missing", identity="id-model-1-1", bytes=7, seconds=1.0)
RETRIED = StepRetried(model="model-1-1", step="evaluate", reason="out of memory", attempt=1, batch_size=2)
STOPPED = RunStopped(reason="saturated", generation=1, detail="too similar")
CONTINUED = RunContinued(reason="there is room again", retried=())
CHANGED = SettingsChanged(changes={"device": ("auto", "cpu")}, config=CONFIG.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("events", "event", "message"),
    [
        ([], FOUNDED[1], "one run_started event, which comes first"),
        ([], STOPPED, "one run_started event, which comes first"),
        ([], CHANGED, "one run_started event, which comes first"),
        (FOUNDED, FOUNDED[0], "one run_started event, which comes first"),
        (FOUNDED, generation(merge("model-2-1", "B", "A"), number=2), "generation 2 does not follow generation 0"),
        (PLANNED, generation(merge("model-1-3", "B", "C")), "generation 1 does not follow generation 1"),
        (FOUNDED, generation(merge("A", "B", "C")), "A is planned twice"),
        (FOUNDED, generation(merge("m", "B", "C"), merge("m", "A", "C")), "m is planned twice"),
        (FOUNDED, generation(merge("m", "A", "Z")), "there is no model Z"),
        (FOUNDED, generation(merge("m", "A", "A")), "two different"),
        (FOUNDED, generation(merge("m", "A", "B"), top=("B", "Z")), "there is no model Z"),
        (FOUNDED[:-1], generation(merge("m", "A", "C")), "needs C, which has no scores"),
        (SCORED, generation(merge("m", "A", "model-1-2"), number=2), "needs model-1-2, which has no scores"),
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
        ([*FOUNDED, STOPPED], generation(merge("m", "A", "B")), "the run has finished"),
        (FOUNDED, CHANGED.model_copy(update={"config": {"base_model": 1}}), "validation error"),
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


# ---------------------------------------------------------------------------------------------------------- moved inputs


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


# ----------------------------------------------------------------------------------------------------------------- times


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


# ------------------------------------------------------------------------------------------------------- node-link data

NODE = {
    *("generation", "kind", "parents", "identity", "status", "scores", "average", "average_stderr", "gain", "kinship"),
    *("recipe", "recipe_name", "checkpoint", "seconds", "bytes", "batch_size", "reused", "reused_tasks"),
    *("gain_over_better_parent", "times", "tokenizer"),
    *("decision", "reason", "retries", "remade"),
}
GRAPH = {"schema", "run", "strategy", "metric", "top", "best", "stop", "kinships", "left_out", "differing_settings"}


def test_networkx_reads_the_node_link_data(tmp_path):
    tree = fold(
        [*SCORED, failed("model-1-2", "merge"), measured("B", "A", 0.5, cs=0.25, ed=3.0), RETRIED.model_copy(), STOPPED]
    )
    path = tmp_path / "family_tree.json"
    path.write_text(json.dumps(to_node_link(tree), allow_nan=False))

    with path.open() as f:
        graph = nx.node_link_graph(json.load(f), edges="edges")

    assert graph.is_directed()
    assert not graph.is_multigraph()
    assert list(graph) == ["A", "B", "C", "model-1-1", "model-1-2"]
    assert set(graph.edges) == {("A", "model-1-1"), ("B", "model-1-1"), ("A", "model-1-2"), ("C", "model-1-2")}
    assert set(graph.graph) == GRAPH
    assert all(set(attributes) == NODE for _, attributes in graph.nodes(data=True))
    assert not any(attributes for _, _, attributes in graph.edges(data=True))
    assert to_node_link(tree) == nx.node_link_data(graph, edges="edges")


def test_a_node_has_all_attributes_of_its_model():
    differing = {"rope_theta": {"A": 1, "B": 2}}
    start = started(CONFIG).model_copy(update={"differing_settings": differing})
    stamped = FamilyTree()
    for event in [start, *SCORED[1:]]:
        stamped.apply(event, f"at {event.type}")
    assert to_node_link(stamped)["nodes"][3]["times"] == {
        "planned": "at generation_planned",
        "merged": "at model_merged",
        "evaluated": "at model_evaluated",
        "failed": None,
    }
    assert to_node_link(stamped)["graph"]["differing_settings"] == differing
    tree = fold([*SCORED, measured("B", "A", 0.5, cs=0.25, ed=3.0), failed("model-1-2", "merge"), STOPPED])
    data = to_node_link(tree)
    nodes = {node["id"]: node for node in data["nodes"]}

    assert nodes["model-1-1"] == {
        "id": "model-1-1",
        "generation": 1,
        "kind": "merge",
        "parents": ["B", "A"],
        "identity": "id-model-1-1",
        "status": "evaluated",
        "scores": {"task": {"metric": "acc,none", "value": 0.875, "stderr": 0.01}},
        "average": 0.875,
        "average_stderr": 0.01,
        "gain": 0.25,
        "gain_over_better_parent": 0.125,
        "kinship": {"pcc": 0.5, "cs": 0.25, "ed": 3.0},
        "recipe": "recipes/model-1-1.yaml",
        "recipe_name": "slerp",
        "tokenizer": "union",
        "checkpoint": "models/model-1-1",
        "seconds": {"merge": 1.5, "evaluate": 2.5},
        "times": {"planned": None, "merged": None, "evaluated": None, "failed": None},
        "bytes": 2,
        "batch_size": 4,
        "reused": False,
        "reused_tasks": [],
        "decision": "because",
        "reason": None,
        "retries": [],
        "remade": [],
    }
    assert (nodes["model-1-2"]["status"], nodes["model-1-2"]["reason"]) == ("failed", "it broke")
    assert nodes["model-1-2"]["kinship"] is None
    assert nodes["A"]["parents"] == []
    assert data["graph"] == {
        "schema": 2,
        "run": "run",
        "strategy": "kinship",
        "metric": "pcc",
        "top": ["model-1-1", "B"],
        "best": "model-1-1",
        "stop": {"reason": "saturated", "generation": 1, "detail": "too similar"},
        "kinships": [{"a": "A", "b": "B", "pcc": 0.5, "cs": 0.25, "ed": 3.0}],
        "left_out": [],
        "differing_settings": {},
    }


def test_a_tree_without_scores_has_node_link_data():
    data = to_node_link(fold(FOUNDED[:1]))

    assert (data["graph"]["best"], data["graph"]["top"], data["graph"]["stop"]) == (None, [], None)
    assert {node["status"] for node in data["nodes"]} == {"merged"}


def test_nodes_are_in_the_order_of_age_and_not_of_the_configuration():
    data = to_node_link(fold([started(make_config(("C", "A", "B")))]))

    assert [node["id"] for node in data["nodes"]] == ["A", "B", "C"]


def test_rows_left_out_of_a_kinship_are_kept_by_pair():
    event = KinshipMeasured.model_validate(
        {**measured("B", "A", 0.5).model_dump(), "left_out": [{"tensor": "lm_head", "rows": 2, "share": 1e-5}]}
    )

    assert fold([*FOUNDED, event]).left_out == {("A", "B"): event.left_out}
