"""The choice of parents: the pairs of S, and the exploration partner (arXiv 2410.12613, algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from evolve.config import METRICS
from evolve.lineage.events import Kinship
from evolve.lineage.model import Model, Pair, pair
from evolve.lineage.tree import FamilyTree

__all__ = ["Couple", "exploration_candidates", "fresh_pairs", "least_similar"]


@dataclass(frozen=True)
class Couple:
    """Two models to merge; `first` is parent 1, the one with the better average, mergekit's `base_model`."""

    first: Model
    second: Model

    @property
    def mean_average(self) -> float:
        """Mean of the parents' averages (0..1)."""
        return ((self.first.average or 0.0) + (self.second.average or 0.0)) / 2

    @property
    def pair(self) -> Pair:
        """The unordered pair of the two names."""
        return pair(self.first.name, self.second.name)


def fresh_pairs(tree: FamilyTree, names: Sequence[str]) -> list[Couple]:
    """Return every pair of `names` that was never merged, best first by the mean of the parents' averages.

    Ties go to the pair whose parent 1 is older, then to the one whose parent 2 is older.
    """
    chosen = [model for model in map(tree.model, dict.fromkeys(names)) if model.average is not None]
    ranked = sorted(chosen, key=lambda m: (-(m.average or 0.0), m.age))
    couples = [Couple(a, b) for a, b in combinations(ranked, 2) if not tree.was_merged(a.name, b.name)]
    return sorted(couples, key=lambda c: (-c.mean_average, c.first.age, c.second.age))


def exploration_candidates(tree: FamilyTree, best: str, planned: Iterable[Couple]) -> list[Model]:
    """Return the possible exploration partners of the best model.

    These are all scored and all dropped models, because only their weights count, except the best itself and those it
    was merged with or is planned to be merged with.
    """
    taken = {couple.pair for couple in planned}
    return [
        model
        for model in tree.models
        if model.known_average is not None
        and model.name != best
        and not tree.was_merged(best, model.name)
        and pair(best, model.name) not in taken
    ]


def least_similar(tree: FamilyTree, best: str, candidates: Sequence[Model], metric: str) -> tuple[Model, float]:
    """Return the candidate least similar to the best model, by the metric, and its kinship to the best.

    Ties go to the older model. All kinships needed must have been measured.
    """
    values = {model.name: _measured(tree, best, model.name).value(metric) for model in candidates}
    partner = min(candidates, key=lambda model: (METRICS[metric].similarity(values[model.name]), model.age))
    return partner, values[partner.name]


def _measured(tree: FamilyTree, a: str, b: str) -> Kinship:
    kinship = tree.kinship(a, b)
    if kinship is None:
        raise ValueError(f"the kinship of {a} and {b} was not measured")
    return kinship
