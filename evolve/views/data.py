"""The status of a run and a comparison of runs as JSON values, for scripts.

Averages, their standard errors and differences are in 0..1; keys that end in `seconds` are times in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from evolve.analysis import (
    best_by_generation,
    by_state,
    differing_settings,
    effort,
    generations,
    lead,
    remaining,
    top_kinship,
)
from evolve.lineage import FamilyTree, Model
from evolve.views.events import describe_event
from evolve.views.status import Progress

__all__ = ["comparison_data", "status_data"]


def status_data(tree: FamilyTree, *, progress: Progress | None = None) -> dict[str, Any]:
    """Return the content of `status_view` as JSON values; null if something is not known (yet).

    Args:
        tree: The current tree.
        progress: The progress of the current step, if known.
    """
    strategy = tree.config.strategy
    found, ranking, estimate = lead(tree), tree.ranking, remaining(tree)
    last = tree.history[-1] if tree.history else None
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
        "estimate": asdict(estimate) if estimate else None,
        "progress": {**asdict(progress), "percent": progress.percent} if progress else None,
        "last_event": describe_event(last.event, tree) if last else None,
        "last_event_at": last.at if last else None,
        "stop": tree.stop.model_dump(include={"reason", "generation", "detail"}) if tree.stop else None,
    }


def comparison_data(trees: Mapping[str, FamilyTree]) -> dict[str, Any]:
    """Return the content of `compare_view` as JSON values.

    `differing` names the settings by which the runs' averages and gains cannot be compared; it is empty if they can.
    """
    return {
        "runs": {name: status_data(tree) for name, tree in trees.items()},
        "differing": differing_settings(trees),
    }


def _models(tree: FamilyTree) -> dict[str, list[str]]:
    """Return the names by state (`scored`, `to_score`, ...), by generation and in the order planned."""
    ordered = [model for models in generations(tree).values() for model in models]
    return {state.replace(" ", "_"): [m.name for m in models] for state, models in by_state(ordered).items()}


def _model(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "average": model.average,
        "average_stderr": model.average_stderr,
        "is_estimate": model.status == "estimated",
        "checkpoint": model.checkpoint,
    }


def _gain(tree: FamilyTree) -> dict[str, Any] | None:
    found = lead(tree)
    if found is None:
        return None
    difference = found.difference
    return {
        "value": difference.value,
        "stderr": difference.stderr,
        "beyond_two_standard_errors": difference.is_clear,
    }
