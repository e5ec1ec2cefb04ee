"""The family tree: a fold of events over a networkx graph of models.

Pure: no disk, no clock, no random generator, no torch. The tree does not depend on the order in which the outcomes of
one generation arrive.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations

import networkx as nx

from evolve.config import Config
from evolve.lineage.events import (
    CheckpointRemade,
    Event,
    GenerationPlanned,
    Kinship,
    KinshipMeasured,
    LeftOut,
    ModelEvaluated,
    ModelFailed,
    ModelMerged,
    RunStarted,
    RunStopped,
    SettingsChanged,
    StepRetried,
)
from evolve.lineage.model import Model, Pair, Status, pair, planned_child, weighted_average

__all__ = ["FamilyTree", "Model", "Pair", "fold", "pair"]


class FamilyTree:
    """All that is known of a run: its models, their kinships, its generations and its end.

    Attributes:
        graph: Directed graph from parent to child; node attribute `model` holds the `Model`.
        kinships: Every kinship ever measured, by unordered pair.
        tops: S of each planned generation, best first, by generation.
        stop: Why the run ended, or None.
        batch_limit: The batch size that a lack of memory led to; None where there was enough.
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
        self._config: Config | None = None
        self._merged_pairs: set[Pair] = set()

    # ------------------------------------------------------------------------------------------------- reading

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._config if self._config is not None else Config.model_validate(self.origin.config)

    @property
    def origin(self) -> RunStarted:
        """The first event: what the run started with."""
        if self.started is None:
            raise ValueError("the journal has no run_started event")
        return self.started

    @property
    def models(self) -> list[Model]:
        """All models, oldest first."""
        return sorted((data["model"] for _, data in self.graph.nodes(data=True)), key=lambda m: m.age)

    def __contains__(self, name: str) -> bool:
        return name in self.graph

    def model(self, name: str) -> Model:
        """The model of that name; KeyError where there is none."""
        found: Model = self.graph.nodes[name]["model"]
        return found

    @property
    def generation(self) -> int:
        """The newest generation that was planned; 0 where only foundations exist."""
        return max(self.tops, default=0)

    @property
    def ranking(self) -> list[Model]:
        """All evaluated models, best first; ties go to the older model, then to the name."""
        scored = [model for model in self.models if model.average is not None]
        return sorted(scored, key=lambda m: (-(m.average or 0.0), m.age))

    def top(self, k: int) -> tuple[str, ...]:
        """S: the names of the k best models so far, best first."""
        return tuple(model.name for model in self.ranking[:k])

    def kinship(self, a: str, b: str) -> Kinship | None:
        """The kinship of two models, in either order, where it was measured."""
        return self.kinships.get(pair(a, b))

    def mean_kinship(self, names: Sequence[str], metric: str) -> float | None:
        """Kinship of a set: the mean over its pairs, 2/(n(n-1)) * sum (arXiv 2410.12613, equation 4).

        None where a pair is not measured or the set has fewer than two models.
        """
        found = [self.kinship(a, b) for a, b in combinations(names, 2)]
        values = [getattr(kinship, metric) for kinship in found if kinship is not None]
        if not values or len(values) < len(found):
            return None
        return math.fsum(values) / len(values)

    def was_merged(self, a: str, b: str) -> bool:
        """Whether the two were ever planned to be merged, in either order, whatever came of it."""
        return pair(a, b) in self._merged_pairs

    def children_of(self, generation: int) -> list[Model]:
        """The children of one generation."""
        return [model for model in self.models if model.generation == generation and model.kind != "foundation"]

    def gain(self, name: str) -> float | None:
        """Merge gain: a child's average minus the mean of its parents' averages; None for others."""
        child = self.model(name)
        if child.average is None or not child.parents:
            return None
        parents = [self.model(parent).average for parent in child.parents]
        return child.average - math.fsum(average for average in parents if average is not None) / 2

    # ------------------------------------------------------------------------------------------------- folding

    def apply(self, event: Event) -> None:
        """Fold one event in; ValueError where it contradicts what is known, and then the tree is as before."""
        if (self.started is None) != isinstance(event, RunStarted):
            raise ValueError(f"{event.type}: a journal has one run_started event, which comes first")
        getattr(self, f"_apply_{event.type}")(event)

    def _apply_kinship_measured(self, event: KinshipMeasured) -> None:
        key = pair(self._known(event.a).name, self._known(event.b).name)
        if event.a == event.b:
            raise ValueError(f"{event.a}: a kinship is of two models")
        if self.kinships.get(key, event.kinship) != event.kinship:
            raise ValueError(f"the kinship of {event.a} and {event.b} is measured twice, with different outcomes")
        self.kinships[key] = event.kinship
        self.left_out[key] = event.left_out

    def _apply_model_failed(self, event: ModelFailed) -> None:
        # A merged child fails in its merge where its checkpoint was lost and could not be made again.
        model = self._open(event.model, "merged", *(("planned",) if event.step == "merge" else ()))
        if model.kind == "foundation":
            raise ValueError(f"{model.name} is a foundation; without its scores the run cannot go on")
        self._put(replace(model, status="failed", reason=event.reason))

    def _apply_step_retried(self, event: StepRetried) -> None:
        model = self._known(event.model)
        retries = (*model.retries, f"{event.step}: {event.reason}")
        attempts = model.attempts
        if event.batch_size is None:
            attempts = {**attempts, event.step: attempts.get(event.step, 0) + 1}
        else:
            self.batch_limit = min(event.batch_size, self.batch_limit or event.batch_size)
        self._put(replace(model, retries=retries, attempts=attempts))

    def _apply_checkpoint_remade(self, event: CheckpointRemade) -> None:
        model = self._known(event.model)
        if model.kind == "foundation" or event.identity != model.identity:
            raise ValueError(f"{model.name}: what was made again is not the child that it had been")
        self._put(replace(model, remade=(*model.remade, event.reason), bytes=event.bytes))

    def _apply_settings_changed(self, event: SettingsChanged) -> None:
        self._config = Config.model_validate(event.config)
        self.changes.append(event)
        if "evaluation.batch_size" in event.changes:
            self.batch_limit = None
        if self.stop is not None and self.stop.reason == "budget":
            self.stop = None  # a raised budget lets the run go on

    def _apply_run_stopped(self, event: RunStopped) -> None:
        self._refuse_after_stop(event)
        self.stop = event

    def _refuse_after_stop(self, event: RunStopped | GenerationPlanned) -> None:
        if self.stop is not None:
            raise ValueError(f"{event.type}: the run is over already ({self.stop.reason})")

    def _apply_run_started(self, event: RunStarted) -> None:
        names = [entry.name for entry in event.foundations]
        if len(set(names)) < len(names):
            raise ValueError(f"two foundations have one name: {', '.join(names)}")
        self._config = Config.model_validate(event.config)
        self.started = event
        for entry in event.foundations:
            self._put(
                Model(
                    name=entry.name,
                    generation=0,
                    kind="foundation",
                    parents=(),
                    decision="a foundation model",
                    status="merged",
                    identity=entry.identity,
                    checkpoint=entry.path,
                    bytes=entry.bytes,
                )
            )

    def _apply_generation_planned(self, event: GenerationPlanned) -> None:
        self._refuse_after_stop(event)
        if event.generation != self.generation + 1:
            raise ValueError(f"generation {event.generation} does not follow generation {self.generation}")
        names = [merge.name for merge in event.merges]
        for name in names:
            if name in self.graph or names.count(name) > 1:
                raise ValueError(f"{name} is planned twice")
        for name in {*event.top, *(parent for merge in event.merges for parent in merge.parents)}:
            if self._known(name).average is None:
                raise ValueError(f"generation {event.generation} rests on {name}, which has no scores")
        children = [planned_child(event.generation, merge) for merge in event.merges]
        self.tops[event.generation] = event.top
        for child in children:
            self._put(child)
            self._merged_pairs.add(pair(*child.parents))
            self.graph.add_edges_from((parent, child.name) for parent in child.parents)

    def _apply_model_merged(self, event: ModelMerged) -> None:
        model = self._open(event.model, "planned")
        self._put(
            replace(
                model,
                status="merged",
                identity=event.identity,
                checkpoint=event.checkpoint,
                recipe=event.recipe,
                bytes=event.bytes,
                seconds={**model.seconds, "merge": event.seconds},
            )
        )

    def _apply_model_evaluated(self, event: ModelEvaluated) -> None:
        model = self._open(event.model, "merged")
        weights = {task.task: task.signed_weight for task in self.config.evaluation.tasks}
        if set(event.scores) != set(weights):
            raise ValueError(f"{model.name}: has scores of {', '.join(event.scores)} instead of {', '.join(weights)}")
        average, stderr = weighted_average(event.scores, weights)
        self._put(
            replace(
                model,
                status="evaluated",
                scores=dict(event.scores),
                average=average,
                average_stderr=stderr,
                batch_size=event.batch_size,
                reused=event.reused,
                seconds={**model.seconds, "evaluate": event.seconds},
            )
        )

    def _known(self, name: str) -> Model:
        if name not in self.graph:
            raise ValueError(f"there is no model {name}")
        return self.model(name)

    def _open(self, name: str, *statuses: Status) -> Model:
        """A model that is just before this step; a final outcome is never overwritten."""
        model = self._known(name)
        if model.status not in statuses:
            raise ValueError(f"{name} is {model.status} and not {' or '.join(statuses)}")
        return model

    def _put(self, model: Model) -> None:
        self.graph.add_node(model.name, model=model)


def fold(events: Iterable[Event]) -> FamilyTree:
    """The family tree of a run's events."""
    tree = FamilyTree()
    for event in events:
        tree.apply(event)
    return tree
