"""The family tree as networkx node-link data, the content of `family_tree.json`."""

from __future__ import annotations

from typing import Any, get_args

import networkx as nx

from evolve.lineage.events import SCHEMA
from evolve.lineage.model import Model, RaceStanding, Status
from evolve.lineage.tree import FamilyTree

__all__ = ["to_graph", "to_node_link"]


def to_graph(tree: FamilyTree) -> nx.DiGraph[str]:
    """Return a graph with JSON values only as its attributes; edges go from parent to child."""
    strategy = tree.config.strategy
    top = tree.top(strategy.top_k)
    graph: nx.DiGraph[str] = nx.DiGraph(
        schema=SCHEMA,
        run=tree.config.name,
        strategy=strategy.name,
        metric=strategy.metric,
        top=list(top),
        best=top[0] if top else None,
        stop=tree.stop.model_dump(include={"reason", "generation", "detail"}) if tree.stop else None,
        kinships=[{"a": a, "b": b, **kinship.model_dump()} for (a, b), kinship in sorted(tree.kinships.items())],
        left_out=[
            {"a": a, "b": b, **part.model_dump()} for (a, b), parts in sorted(tree.left_out.items()) for part in parts
        ],
        differing_settings=tree.origin.differing_settings,
    )
    for model in tree.models:
        graph.add_node(model.name, **_node(tree, model))
    for model in tree.models:
        for parent in model.parents:
            graph.add_edge(parent, model.name)
    return graph


def to_node_link(tree: FamilyTree) -> dict[str, Any]:
    """Return the graph in node-link form, which `networkx.node_link_graph(data, edges="edges")` reads."""
    data: dict[str, Any] = nx.node_link_data(to_graph(tree), edges="edges")
    return data


def _node(tree: FamilyTree, model: Model) -> dict[str, Any]:
    kinship = tree.kinship(*model.parents) if model.parents else None
    return {
        "generation": model.generation,
        "kind": model.kind,
        "parents": list(model.parents),
        "identity": model.identity,
        "status": model.status,
        "scores": {task: score.model_dump() for task, score in model.scores.items()},
        "average": model.average,
        "average_stderr": model.average_stderr,
        "race": _race(model.race),
        "gain": tree.gain(model.name),
        "gain_over_better_parent": tree.gain_over_better_parent(model.name),
        "kinship": kinship.model_dump() if kinship else None,
        "recipe": model.recipe,
        "recipe_name": model.recipe_name,
        "tokenizer": model.tokenizer,
        "checkpoint": model.checkpoint,
        "seconds": {step: model.seconds.get(step) for step in ("merge", "evaluate")},
        "times": {status: model.times.get(status) for status in get_args(Status)},
        "bytes": model.bytes,
        "batch_size": model.batch_size,
        "reused": model.reused,
        "reused_tasks": list(model.reused_tasks),
        "decision": model.decision,
        "reason": model.reason,
        "retries": list(model.retries),
        "remade": list(model.remade),
    }


def _race(race: RaceStanding | None) -> dict[str, Any] | None:
    if race is None:
        return None
    return {
        "rung": race.rung,
        "share": race.share,
        "estimates": {task: estimate.model_dump() for task, estimate in race.estimates.items()},
        "average": race.average,
        "stderr": race.stderr,
        "low": race.interval.low,
        "high": race.interval.high,
    }
