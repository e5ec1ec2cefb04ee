"""The node-link data of a family tree."""

from __future__ import annotations

import json
from typing import get_args

import networkx as nx
from family_trees import fold

from evolve.lineage import (
    FamilyTree,
    KinshipMeasured,
    Status,
    to_node_link,
)

from ._examples import (
    CONFIG,
    FOUNDED,
    RETRIED,
    SCORED,
    STOPPED,
)
from ._simulation import failed, make_config, measured, started

NODE = {
    *("generation", "kind", "parents", "identity", "status", "scores", "average", "average_stderr", "gain", "kinship"),
    *("recipe", "recipe_name", "checkpoint", "seconds", "bytes", "batch_size", "reused", "reused_tasks"),
    *("gain_over_better_parent", "times", "tokenizer", "race"),
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
        "racing": None,
        "estimated": None,
        "evaluated": "at model_evaluated",
        "dropped": None,
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
        "race": None,
        "gain": 0.25,
        "gain_over_better_parent": 0.125,
        "kinship": {"pcc": 0.5, "cs": 0.25, "ed": 3.0},
        "recipe": "recipes/model-1-1.yaml",
        "recipe_name": "slerp",
        "tokenizer": "union",
        "checkpoint": "models/model-1-1",
        "seconds": {"merge": 1.5, "evaluate": 2.5},
        "times": dict.fromkeys(get_args(Status)),
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
