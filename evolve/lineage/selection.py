"""Who is merged with whom: the pairs of S, and the exploration partner (arXiv 2410.12613, algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from evolve.lineage.events import Kinship
from evolve.lineage.model import Model, Pair, pair
from evolve.lineage.tree import FamilyTree

__all__ = ["Couple", "exploration_candidates", "fresh_pairs", "least_akin"]


@dataclass(frozen=True)
class Couple:
    """Two models to merge; `first` is parent 1, the better-scored, mergekit's `base_model`."""

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
    """Every pair of `names` that was never merged, best first by the mean of the parents' averages.

    Ties go to the pair whose parent 1 is older, then to the one whose parent 2 is older.
    """
    chosen = set(names)
    ranked = [model for model in tree.ranking if model.name in chosen]
    couples = [Couple(a, b) for a, b in combinations(ranked, 2) if not tree.was_merged(a.name, b.name)]
    return sorted(couples, key=lambda c: (-c.mean_average, c.first.age, c.second.age))


def exploration_candidates(tree: FamilyTree, best: str, planned: Iterable[Couple]) -> list[Model]:
    """Models that the best one may explore with.

    All scored models but the best itself and those that it was merged with or is about to be.
    """
    about_to_be = {couple.pair for couple in planned}
    return [
        model
        for model in tree.ranking
        if model.name != best and not tree.was_merged(best, model.name) and pair(best, model.name) not in about_to_be
    ]


def least_akin(tree: FamilyTree, best: str, candidates: Sequence[Model], metric: str) -> tuple[Model, float]:
    """The candidate of least kinship to the best model: the lowest pcc or cs, the greatest ed, which is a distance.

    Ties go to the older model, then to the name. All kinships needed must have been measured.
    """
    sign = -1.0 if metric == "ed" else 1.0

    def distance(model: Model) -> tuple[float, tuple[int, str]]:
        return (sign * _value(tree.kinship(best, model.name), metric), model.age)

    partner = min(candidates, key=distance)
    return partner, _value(tree.kinship(best, partner.name), metric)


def _value(kinship: Kinship | None, metric: str) -> float:
    if kinship is None:
        raise ValueError("a kinship that the selection needs was not measured")
    return float(getattr(kinship, metric))
