"""The status of a run and a comparison of runs as JSON values, for scripts; scores and gains are in 0..1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from evolve.lineage import FamilyTree, Model
from evolve.views.facts import best_by_generation, differing_settings, effort, generations, lead, top_kinship

__all__ = ["comparison_data", "status_data"]


def status_data(tree: FamilyTree) -> dict[str, Any]:
    """What `status_view` shows, as JSON values; null where something is not known (yet)."""
    strategy = tree.config.strategy
    found = lead(tree)
    ranking = tree.ranking
    return {
        "run": tree.config.name,
        "strategy": strategy.name,
        "metric": strategy.metric,
        "top_k": strategy.top_k,
        "generation": tree.generation,
        "max_generations": strategy.max_generations,
        "models": _models(tree),
        "best": _model(ranking[0]) if ranking else None,
        "best_foundation": _model(found.foundation) if found else None,
        "gain_over_best_foundation": _gain(tree),
        "best_by_generation": [
            {"generation": generation, **(_model(model) if model else {"name": None})}
            for generation, model in best_by_generation(tree).items()
        ],
        "top": list(tree.top(strategy.top_k)),
        "top_kinship": top_kinship(tree),
        "stop_at_kinship": strategy.stop_at_kinship,
        "effort": asdict(effort(tree)),
        "stop": tree.stop.model_dump(include={"reason", "generation", "detail"}) if tree.stop else None,
    }


def comparison_data(trees: Mapping[str, FamilyTree]) -> dict[str, Any]:
    """What `compare_view` shows, as JSON values.

    `differing` names the settings by which the runs' averages and gains do not compare; it is empty where they do.
    """
    return {
        "runs": {name: status_data(tree) for name, tree in trees.items()},
        "differing": differing_settings(trees),
    }


def _models(tree: FamilyTree) -> dict[str, list[str]]:
    """Names by status, oldest generation first and in the order planned."""
    ordered = [model for models in generations(tree).values() for model in models]
    states = {"evaluated": "scored", "merged": "to_score", "planned": "to_merge", "failed": "failed"}
    return {word: [model.name for model in ordered if model.status == state] for state, word in states.items()}


def _model(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "average": model.average,
        "average_stderr": model.average_stderr,
        "checkpoint": model.checkpoint,
    }


def _gain(tree: FamilyTree) -> dict[str, Any] | None:
    found = lead(tree)
    if found is None:
        return None
    gain = found.difference
    return {"value": gain.value, "stderr": gain.stderr, "beyond_two_standard_errors": gain.is_clear}
