"""The family tree: what it computes, what it refuses, and how it is written."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, replace

import networkx as nx
import pytest

from evolve.config import Config
from evolve.lineage import (
    CheckpointRemade,
    Event,
    FamilyTree,
    GenerationPlanned,
    Kinship,
    KinshipMeasured,
    Model,
    ModelEvaluated,
    PlannedMerge,
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
        (CHILD, {"reason": "it broke"}),
        (CHILD, {"status": "evaluated"}),
        (CHILD, {"status": "evaluated", "scores": SCORES}),
        (CHILD, {"status": "evaluated", "average": 0.5}),
        (CHILD, {"status": "merged", "scores": SCORES, "average": 0.5}),
        (CHILD, {"status": "failed", "reason": "it broke", "scores": SCORES, "average": 0.5}),
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
    assert replace(CHILD, status="failed", reason="it broke").reason == "it broke"
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


def test_a_task_of_which_less_is_better_counts_with_a_minus_sign():
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
def test_scores_of_other_tasks_than_those_configured_are_refused(scores):
    with pytest.raises(ValueError, match=r"A: has scores of x.* instead of x, y"):
        with_scores({"x": 1, "y": 1}, **scores)


@pytest.mark.parametrize(
    ("weight", "value", "error"),
    [(1e300, 1e308, None), (1.0, 1.5e308, None), (1e300, 0.5, 1e308), (1.0, 0.5, 1e200)],
)
def test_an_average_that_overflows_is_refused(weight, value, error):
    with pytest.raises(ValueError, match="A: its average is not finite"):
        with_scores({"x": weight, "y": weight}, x=(value, error), y=(value, error))


def test_the_gain_is_the_average_less_the_mean_of_the_parents():
    tree = fold([*SCORED, merged("model-1-2")])

    assert tree.gain("model-1-1") == pytest.approx(0.875 - (0.75 + 0.5) / 2)
    assert tree.gain("model-1-2") is None
    assert tree.gain("A") is None


def test_the_kinship_of_a_set_is_the_mean_over_its_pairs():
    tree = fold([*FOUNDED, measured("B", "A", 0.5, cs=-1.0, ed=2.0), measured("A", "C", -0.25, cs=0.5, ed=4.0)])

    assert tree.mean_kinship(["A", "B"], "pcc") == 0.5
    assert tree.mean_kinship(["A", "B", "C"], "pcc") is None
    assert tree.mean_kinship(["A"], "pcc") is None
    tree.apply(measured("C", "B", 0.5, cs=0.5, ed=6.0))
    for metric, values in {"pcc": (0.5, -0.25, 0.5), "cs": (-1.0, 0.5, 0.5), "ed": (2.0, 4.0, 6.0)}.items():
        assert tree.mean_kinship(["C", "A", "B"], metric) == pytest.approx(2 / (3 * 2) * sum(values))


def test_the_best_come_first_and_ties_go_to_the_older_and_then_to_the_name():
    tree = fold([*MERGED, evaluated("model-1-1", 0.5), merged("model-1-2"), evaluated("model-1-2", 0.5)])

    assert tree.top(5) == ("B", "A", "model-1-1", "model-1-2", "C")
    assert tree.top(2) == ("B", "A")


# ------------------------------------------------------------------------------------------------------ what is refused

REMADE = CheckpointRemade(model="model-1-1", reason="gone", identity="id-model-1-1", bytes=7, seconds=1.0)
RETRIED = StepRetried(model="model-1-1", step="evaluate", reason="out of memory", attempt=1, batch_size=2)
STOPPED = RunStopped(reason="saturated", generation=1, detail="too alike")
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
        (FOUNDED[:-1], generation(merge("m", "A", "C")), "rests on C, which has no scores"),
        (SCORED, generation(merge("m", "A", "model-1-2"), number=2), "rests on model-1-2, which has no scores"),
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
        (FOUNDED, measured("A", "A", 1.0), "a kinship is of two models"),
        ([*FOUNDED, measured("A", "B", 0.5)], measured("B", "A", 0.6), "measured twice"),
        (PLANNED, REMADE, "not the child that it had been"),
        (MERGED, REMADE.model_copy(update={"identity": "another"}), "not the child that it had been"),
        (MERGED, REMADE.model_copy(update={"model": "A", "identity": "id-A"}), "not the child that it had been"),
        ([*FOUNDED, STOPPED], STOPPED, "the run is over already"),
        ([*FOUNDED, STOPPED], generation(merge("m", "A", "B")), "the run is over already"),
        (FOUNDED, CHANGED.model_copy(update={"config": {"base_model": 1}}), "validation error"),
    ],
)
def test_a_contradicting_event_is_refused_and_changes_nothing(events, event, message):
    tree = fold(events)
    before = repr((vars(tree), list(tree.graph.nodes(data=True)), list(tree.graph.edges)))

    with pytest.raises(ValueError, match=message):
        tree.apply(event)

    assert repr((vars(tree), list(tree.graph.nodes(data=True)), list(tree.graph.edges))) == before


def test_two_foundations_of_one_name_are_refused():
    event = started(CONFIG)
    twice = event.model_copy(update={"foundations": (event.foundations[0], event.foundations[0])})

    with pytest.raises(ValueError, match="two foundations have one name: A, A"):
        fold([twice])


def test_a_tree_without_a_beginning_has_no_configuration():
    with pytest.raises(ValueError, match="no run_started"):
        _ = FamilyTree().config


def test_a_kinship_measured_again_with_the_same_outcome_is_no_contradiction():
    tree = fold([*FOUNDED, measured("A", "B", 0.5), measured("B", "A", 0.5)])

    assert tree.kinships == {("A", "B"): Kinship(pcc=0.5, cs=0.5, ed=1.0)}


def test_a_child_whose_lost_checkpoint_cannot_be_made_again_may_still_fail():
    tree = fold([*MERGED, failed("model-1-1", "merge", "no room")])

    assert (tree.model("model-1-1").status, tree.model("model-1-1").reason) == ("failed", "no room")


def test_what_is_not_an_outcome_leaves_the_status_as_it_is():
    tree = fold([*MERGED, RETRIED, REMADE])

    model = tree.model("model-1-1")
    assert model.status == "merged"
    assert model.retries == ("evaluate: out of memory",)
    assert (model.remade, model.bytes) == (("gone",), 7)
    assert model.attempts == {}
    assert tree.batch_limit == 2


def test_an_attempt_is_lost_where_no_batch_was_halved():
    lost = RETRIED.model_copy(update={"batch_size": None})

    tree = fold([*MERGED, lost, lost])

    assert tree.model("model-1-1").attempts == {"evaluate": 2}
    assert tree.batch_limit is None


def test_the_smallest_batch_holds_until_the_setting_changes():
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


@pytest.mark.parametrize("reason", ["converged", "saturated", "exhausted", "budget", "failed"])
def test_changed_settings_let_only_a_run_go_on_that_its_budget_stopped(reason):
    end = RunStopped(reason=reason, generation=0, detail="")

    tree = fold([*FOUNDED, end, raised(5)])

    assert tree.config.strategy.max_generations == 5
    assert [event.changes for event in tree.changes] == [{"strategy.max_generations": (1, 5)}]
    if reason == "budget":
        assert tree.stop is None
        assert isinstance(plan(tree), Work)
    else:
        assert plan(tree) == tree.stop == end


def test_a_raised_budget_leads_to_the_next_generation_and_an_unchanged_one_to_the_same_end():
    events = [
        *SCORED,
        merged("model-1-2"),
        evaluated("model-1-2", 0.1),
        measured("A", "B", 0.0),
        measured("A", "C", 0.0),
    ]
    events += [RunStopped(reason="budget", generation=1, detail="")]

    assert isinstance(plan(fold([*events, raised(2)])), Work)  # the kinships of the best with its possible partners
    again = plan(fold([*events, raised(1)]))
    assert isinstance(again, RunStopped)
    assert (again.reason, again.generation) == ("budget", 1)


# ------------------------------------------------------------------------------------------------------- node-link data

NODE = {
    *("generation", "kind", "parents", "identity", "status", "scores", "average", "average_stderr", "gain", "kinship"),
    *("recipe", "recipe_name", "checkpoint", "seconds", "bytes", "batch_size", "reused"),
    *("decision", "reason", "retries", "remade"),
}
GRAPH = {"schema", "run", "strategy", "metric", "top", "best", "stop", "kinships", "left_out"}


def test_networkx_reads_the_node_link_data_as_the_design_says(tmp_path):
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


def test_a_node_carries_what_is_known_of_its_model():
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
        "kinship": {"pcc": 0.5, "cs": 0.25, "ed": 3.0},
        "recipe": "recipes/model-1-1.yaml",
        "recipe_name": "slerp",
        "checkpoint": "models/model-1-1",
        "seconds": {"merge": 1.5, "evaluate": 2.5},
        "bytes": 2,
        "batch_size": 4,
        "reused": False,
        "decision": "because",
        "reason": None,
        "retries": [],
        "remade": [],
    }
    assert (nodes["model-1-2"]["status"], nodes["model-1-2"]["reason"]) == ("failed", "it broke")
    assert nodes["model-1-2"]["kinship"] is None
    assert nodes["A"]["parents"] == []
    assert data["graph"] == {
        "schema": 1,
        "run": "run",
        "strategy": "kinship",
        "metric": "pcc",
        "top": ["model-1-1", "B"],
        "best": "model-1-1",
        "stop": {"reason": "saturated", "generation": 1, "detail": "too alike"},
        "kinships": [{"a": "A", "b": "B", "pcc": 0.5, "cs": 0.25, "ed": 3.0}],
        "left_out": [],
    }


def test_a_tree_whose_models_have_no_scores_yet_is_written_too():
    data = to_node_link(fold(FOUNDED[:1]))

    assert (data["graph"]["best"], data["graph"]["top"], data["graph"]["stop"]) == (None, [], None)
    assert {node["status"] for node in data["nodes"]} == {"merged"}


def test_nodes_come_oldest_first_and_then_by_name_whatever_the_order_of_the_configuration():
    data = to_node_link(fold([started(make_config(("C", "A", "B")))]))

    assert [node["id"] for node in data["nodes"]] == ["A", "B", "C"]


def test_left_out_rows_are_kept_with_the_pair():
    event = KinshipMeasured.model_validate(
        {**measured("B", "A", 0.5).model_dump(), "left_out": [{"tensor": "lm_head", "rows": 2, "share": 1e-5}]}
    )

    assert fold([*FOUNDED, event]).left_out == {("A", "B"): event.left_out}
