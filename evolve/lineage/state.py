"""The state of a family tree: a networkx graph of models, and what can be asked of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import combinations

import networkx as nx

from evolve.config import Config
from evolve.lineage.events import BatchSize, Event, Kinship, LeftOut, RunStarted, RunStopped, SettingsChanged
from evolve.lineage.model import Model, Pair, pair

__all__ = ["Recorded", "TreeState"]


@dataclass(frozen=True)
class Recorded:
    """An event with the time when it was recorded, as UTC time in ISO format; None if it is not known."""

    at: str | None
    event: Event


class TreeState:
    """All models of a run, their kinships, its generations and its end.

    Attributes:
        graph: Directed graph from parent to child; the node attribute `model` is the `Model`.
        kinships: Every measured kinship, by unordered pair.
        left_out: Rows that a kinship does not compare, by unordered pair.
        tops: S of each planned generation, best first, by generation.
        stop: Why the run stopped; None while it has not.
        started: The first event; None in an empty tree.
        changes: Changes of settings, in order.
        batch_limit: The smaller batch size after a lack of memory; None if there was none.
        batch_found: The batch size that `auto` found for the first model; None if none was found.
        history: All events with their times, in order.
    """

    def __init__(self) -> None:
        self.graph: nx.DiGraph[str] = nx.DiGraph()
        self.kinships: dict[Pair, Kinship] = {}
        self.left_out: dict[Pair, tuple[LeftOut, ...]] = {}
        self.tops: dict[int, tuple[str, ...]] = {}
        self.stop: RunStopped | None = None
        self.started: RunStarted | None = None
        self.changes: list[SettingsChanged] = []
        self.batch_limit: int | None = None
        self.batch_found: int | None = None
        self.history: list[Recorded] = []
        self._config: Config | None = None
        self._merged_pairs: set[Pair] = set()
        # Indices of the graph, so that no step sorts or visits all models.
        self._names: dict[int, list[str]] = {}  # of each generation, oldest first
        self._positions: dict[str, int] = {}  # by age, from 0
        self._open: set[str] = set()  # planned, merged and racing models
        self._unmeasured_parents: set[Pair] = set()
        self._finalists: set[str] = set()  # estimated models that are to be scored in full
        self._base_path: str | None = None
        self._root: str | None = None
        self._reads: dict[str, str] = {}

    @property
    def config(self) -> Config:
        """The present configuration."""
        return self._config if self._config is not None else Config.model_validate(self.origin.config)

    @property
    def origin(self) -> RunStarted:
        """The first event of the run."""
        if self.started is None:
            raise ValueError("the journal has no run_started event")
        return self.started

    @property
    def batch_size(self) -> BatchSize:
        """The present batch size: the configured one or the one that `auto` found, smaller after memory ran out."""
        configured = self.config.evaluation.batch_size
        size = self.batch_found or configured if configured == "auto" else configured
        if self.batch_limit is None:
            return size
        return min(size, self.batch_limit) if isinstance(size, int) else self.batch_limit

    @property
    def root(self) -> str | None:
        """The absolute path of the run folder when the models were last found; None in a journal of schema 1."""
        return self.origin.root if self._root is None else self._root

    @property
    def base_path(self) -> str:
        """The folder of the base model, absolute or relative to the run folder."""
        return self.origin.base.path if self._base_path is None else self._base_path

    @property
    def reads(self) -> dict[str, str]:
        """The paths of `RunStarted.reads` as they are now."""
        return {**self.origin.reads, **self._reads}

    @property
    def models(self) -> list[Model]:
        """All models, oldest first."""
        return [self.model(name) for name in self._positions]

    @property
    def open_models(self) -> list[Model]:
        """The planned, merged and racing models, oldest first."""
        return [self.model(name) for name in sorted(self._open, key=self._positions.__getitem__)]

    @property
    def unmeasured_parents(self) -> list[Pair]:
        """The pairs of parents whose kinship was not measured, sorted; those of failed children too."""
        return sorted(self._unmeasured_parents)

    @property
    def finalists(self) -> list[Model]:
        """The estimated models of S that are still to be scored in full since the first of them was, oldest first."""
        return [self.model(name) for name in sorted(self._finalists, key=self._positions.__getitem__)]

    def __contains__(self, name: str) -> bool:
        return name in self.graph

    def model(self, name: str) -> Model:
        """Return the model of that name; KeyError if there is none."""
        found: Model = self.graph.nodes[name]["model"]
        return found

    @property
    def generation(self) -> int:
        """The latest planned generation; 0 before any was planned."""
        return len(self.tops)  # the generations are planned one by one

    @property
    def ranking(self) -> list[Model]:
        """All models with an average, estimates included, best first; ties go to the older model (`Model.age`)."""
        return sorted(self._scored(), key=_descending)  # stable, so the older model stays first

    def top(self, k: int) -> tuple[str, ...]:
        """Return S: the names of the k best models so far, best first."""
        return tuple(model.name for model in nsmallest(k, self._scored(), key=_descending))

    def kinship(self, a: str, b: str) -> Kinship | None:
        """Return the kinship of two models, in either order; None if it was not measured."""
        return self.kinships.get(pair(a, b))

    def mean_kinship(self, names: Sequence[str], metric: str) -> float | None:
        """Return the kinship of a set: the mean over its pairs, 2/(n(n-1)) * sum (arXiv 2410.12613, equation 4).

        None if a pair was not measured or the set has fewer than two models.
        """
        found = [self.kinship(a, b) for a, b in combinations(names, 2)]
        values = [kinship.value(metric) for kinship in found if kinship is not None]
        if not values or len(values) < len(found):
            return None
        return math.fsum(values) / len(values)

    def was_merged(self, a: str, b: str) -> bool:
        """Return whether a merge of the two was ever planned, in either order and with any outcome."""
        return pair(a, b) in self._merged_pairs

    def children_of(self, generation: int) -> list[Model]:
        """Return the children of one generation."""
        return [self.model(name) for name in self._names.get(generation, ())] if generation > 0 else []

    def gain(self, name: str) -> float | None:
        """Return the merge gain: a child's average minus the mean of its parents' averages; None for other models."""
        averages = self._averages(name)
        return averages[0] - math.fsum(averages[1:]) / 2 if averages else None

    def gain_over_better_parent(self, name: str) -> float | None:
        """Return a child's average minus that of its better parent; None for other models."""
        averages = self._averages(name)
        return averages[0] - max(averages[1:]) if averages else None

    def _scored(self) -> Iterator[Model]:
        """Yield the models with an average, oldest first."""
        return (model for model in self.models if model.average is not None)

    def _averages(self, name: str) -> list[float]:
        """Return the averages of a child and its two parents, or their estimates; an empty list if one is missing."""
        child = self.model(name)
        family = [child, *(self.model(parent) for parent in child.parents)]
        found = [model.known_average for model in family if model.known_average is not None]
        return found if len(found) == 3 else []


def _descending(model: Model) -> float:
    """Return a sort key that puts the best average first."""
    return -(model.average or 0.0)
