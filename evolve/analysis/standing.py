"""The state of a run: models by generation and by state, the best of each generation, the kinship of S."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from evolve.lineage import FamilyTree, Model, Status

__all__ = ["STATES", "State", "best_by_generation", "by_state", "generations", "state_of", "top_kinship"]

State = Literal["scored", "estimated", "racing", "to score", "to merge", "dropped", "failed"]

STATES: Mapping[Status, State] = MappingProxyType(
    {
        "evaluated": "scored",
        "estimated": "estimated",
        "racing": "racing",
        "merged": "to score",
        "planned": "to merge",
        "dropped": "dropped",
        "failed": "failed",
    }
)
"""Names of the states in all views, by the status in the tree."""


def state_of(model: Model) -> State:
    """Return the name of a model's state."""
    return STATES[model.status]


def by_state(models: Sequence[Model]) -> dict[State, list[Model]]:
    """Return the models by state, with every state as a key and the models in the given order."""
    return {state: [model for model in models if state_of(model) == state] for state in STATES.values()}


def generations(tree: FamilyTree) -> dict[int, list[Model]]:
    """Return the models by generation, in the order in which they were planned; foundations as configured."""
    found: dict[int, list[Model]] = {}
    for name in tree.graph:
        model = tree.model(name)
        found.setdefault(model.generation, []).append(model)
    return dict(sorted(found.items()))


def best_by_generation(tree: FamilyTree) -> dict[int, Model | None]:
    """Return the best model of each generation; None for a generation without a scored model."""
    found: dict[int, Model | None] = dict.fromkeys(generations(tree))
    for model in tree.ranking:
        if found[model.generation] is None:
            found[model.generation] = model
    return found


def top_kinship(tree: FamilyTree) -> float | None:
    """Return the kinship of S in the run's metric; None if a pair of S was not measured."""
    strategy = tree.config.strategy
    return tree.mean_kinship(tree.top(strategy.top_k), strategy.metric)
