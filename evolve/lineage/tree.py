"""The family tree: the state that follows from the events of a run.

Pure: no disk, no clock, no random generator, no torch. The outcomes of one generation may arrive in any order without
changing the tree.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from evolve.config import Config
from evolve.lineage.events import (
    BatchSize,
    CheckpointRemade,
    Event,
    GenerationPlanned,
    InputsMoved,
    KinshipMeasured,
    ModelDropped,
    ModelEvaluated,
    ModelFailed,
    ModelMerged,
    RunContinued,
    RungScored,
    RunStarted,
    RunStopped,
    SettingsChanged,
    StepRetried,
)
from evolve.lineage.model import Model, RaceStanding, Status, pair, planned_child, weighted_average, weighted_influence
from evolve.lineage.racing import interval
from evolve.lineage.state import Recorded, TreeState

__all__ = ["FamilyTree"]

# A stop with this reason is cleared by a change of this setting.
_REOPENED_BY = {"budget": "strategy.max_generations", "saturated": "strategy.stop_at_kinship"}


class FamilyTree(TreeState):
    """The state of a run, to which events are applied one by one."""

    def apply(self, event: Event, at: str | None = None) -> None:
        """Apply one event.

        Args:
            event: The next event of the run.
            at: When it was recorded, as UTC time in ISO format; None if that is not known.

        Raises:
            ValueError: The event contradicts the state; the tree is unchanged.
        """
        if (self.started is None) != isinstance(event, RunStarted):
            raise ValueError(f"{event.type}: a journal has one run_started event, which comes first")
        getattr(self, f"_apply_{event.type}")(event)
        if at is not None:
            self._stamp(event, at)
        self.history.append(Recorded(at, event))

    def _stamp(self, event: Event, at: str) -> None:
        """Note the time on the models that the event is about."""
        match event:
            case GenerationPlanned():
                names, status = [merge.name for merge in event.merges], "planned"
            case ModelMerged():
                names, status = [event.model], "merged"
            case ModelEvaluated():
                names, status = [event.model], "evaluated"
            case RungScored():
                names, status = [event.model], self.model(event.model).status
            case ModelDropped():
                names, status = [event.model], "dropped"
            case ModelFailed():
                names, status = [event.model], "failed"
            case _:
                return
        for model in map(self.model, names):
            self._put(replace(model, times={**model.times, status: at}))

    # ------------------------------------------------------------------------------------------------- the run

    def _apply_run_started(self, event: RunStarted) -> None:
        names = [entry.name for entry in event.foundations]
        if len(set(names)) < len(names):
            raise ValueError(f"two foundations have the same name: {', '.join(names)}")
        config = Config.model_validate(event.config)
        if set(names) != set(config.foundation_models):
            raise ValueError(f"has the foundations {', '.join(names)}, which are not those of its configuration")
        if not set(config.merge.recipes) <= set(event.recipes):
            raise ValueError("has no text of a recipe of its configuration")
        self._config = config
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
        self._index(0, names)

    def _apply_generation_planned(self, event: GenerationPlanned) -> None:
        self._refuse_after_stop(event)
        if event.generation != self.generation + 1:
            raise ValueError(f"generation {event.generation} does not follow generation {self.generation}")
        names = [merge.name for merge in event.merges]
        for name in names:
            if name in self.graph or names.count(name) > 1:
                raise ValueError(f"{name} is planned twice")
        parents = {parent for merge in event.merges for parent in merge.parents}
        for name in {*event.top, *parents}:
            model = self._known(name)
            if (model.average if name in event.top else model.known_average) is None:
                raise ValueError(f"generation {event.generation} needs {name}, which has no scores")
        for merge in event.merges:
            if merge.recipe not in self.config.merge.recipes:
                raise ValueError(f"{merge.name} has the recipe {merge.recipe}, which the configuration does not list")
        children = [planned_child(event.generation, merge) for merge in event.merges]
        self.tops[event.generation] = event.top
        for child in children:
            self._put(child)
            self._merged_pairs.add(pair(*child.parents))
            self.graph.add_edges_from((parent, child.name) for parent in child.parents)
        self._index(event.generation, names)
        self._unmeasured_parents.update(pair(*child.parents) for child in children)
        self._unmeasured_parents -= self.kinships.keys()

    def _apply_settings_changed(self, event: SettingsChanged) -> None:
        config = Config.model_validate(event.config)
        if _fixed(config) != _fixed(self.config):
            raise ValueError("settings_changed: a run keeps its foundations, its tasks, its recipes and its racing")
        self._config = config
        self.changes.append(event)
        if "evaluation.batch_size" in event.changes:
            self.batch_limit = None
        if not {"evaluation.batch_size", "device"}.isdisjoint(event.changes):
            self.batch_found = None
        if self.stop is not None and _REOPENED_BY.get(self.stop.reason) in event.changes:
            self.stop = None

    def _apply_inputs_moved(self, event: InputsMoved) -> None:
        moved = {name: self._known(name) for name in event.paths if name != "base_model"}
        for name, model in moved.items():
            if model.kind != "foundation":
                raise ValueError(f"{name} is not a foundation, so its checkpoint does not move")
        for name, model in moved.items():
            self._put(replace(model, checkpoint=event.paths[name]))
        self._base_path = event.paths.get("base_model", self._base_path)
        self._root = event.root or self._root
        self._reads |= event.reads

    def _apply_run_stopped(self, event: RunStopped) -> None:
        self._refuse_after_stop(event)
        self.stop = event

    def _apply_run_continued(self, event: RunContinued) -> None:
        if self.stop is None:
            raise ValueError("run_continued: the run has not stopped")
        for model in [self._with_status(name, "failed") for name in event.retried]:
            retried = replace(
                model,
                status="planned" if model.identity is None else "merged",
                race=None,
                reason=None,
                failed_step=None,
                attempts={},
                retries=(*model.retries, f"{model.failed_step}: {model.reason}"),
                times={key: time for key, time in model.times.items() if key != "failed"},
            )
            self._put(retried)
        self.stop = None

    # ---------------------------------------------------------------------------------------------- the outcomes

    def _apply_kinship_measured(self, event: KinshipMeasured) -> None:
        key = pair(self._known(event.a).name, self._known(event.b).name)
        if event.a == event.b:
            raise ValueError(f"{event.a}: a kinship needs two different models")
        if self.kinships.get(key, event.kinship) != event.kinship:
            raise ValueError(f"the kinship of {event.a} and {event.b} was measured twice, with different results")
        self.kinships[key] = event.kinship
        self.left_out[key] = event.left_out
        self._unmeasured_parents.discard(key)

    def _apply_model_merged(self, event: ModelMerged) -> None:
        model = self._with_status(event.model, "planned")
        self._put(
            replace(
                model,
                status="merged",
                identity=event.identity,
                checkpoint=event.checkpoint,
                recipe=event.recipe,
                tokenizer=event.tokenizer,
                bytes=event.bytes,
                seconds={**model.seconds, "merge": event.seconds},
            )
        )

    def _apply_model_evaluated(self, event: ModelEvaluated) -> None:
        model = self._with_status(event.model, "merged", "racing", "estimated")
        self._note_finalist(model)
        average, stderr = weighted_average(event.scores, self._weights(event.model, event.scores))
        if not event.reused:
            self._note_batch_size(event.batch_size)
        self._put(
            replace(
                model,
                status="evaluated",
                scores=dict(event.scores),
                average=average,
                average_stderr=stderr,
                batch_size=event.batch_size,
                reused=event.reused,
                reused_tasks=event.reused_tasks,
                seconds=_with_evaluation(model, event.seconds),
            )
        )

    def _apply_rung_scored(self, event: RungScored) -> None:
        model, racing = self._with_status(event.model, "merged", "racing"), self.config.evaluation.racing
        if racing is None or model.kind == "foundation":
            raise ValueError(f"{model.name} does not race")
        if event.rung != model.rungs + 1 or racing.rungs[event.rung - 1 : event.rung] != (event.share,):
            raise ValueError(f"{model.name}: rung {event.rung} with the share {event.share:g} is not its next one")
        weights = self._weights(event.model, event.estimates)
        average, stderr = weighted_average(event.estimates, weights)
        is_last = event.rung == len(racing.rungs)
        if event.seconds:
            self._note_batch_size(event.batch_size)
        standing = RaceStanding(
            rung=event.rung,
            share=event.share,
            estimates=dict(event.estimates),
            average=average,
            stderr=stderr or 0.0,
            interval=interval(
                average,
                stderr or 0.0,
                weighted_influence(event.estimates, weights),
                rungs=racing.rungs,
                rung=event.rung,
                children=len(self._names[model.generation]),
                confidence=racing.confidence,
            ),
        )
        self._put(
            replace(
                model,
                status="estimated" if is_last else "racing",
                average=average if is_last else None,
                race=standing,
                attempts={step: count for step, count in model.attempts.items() if step != "evaluate"},
                batch_size=event.batch_size,
                seconds=_with_evaluation(model, event.seconds),
            )
        )

    def _apply_model_dropped(self, event: ModelDropped) -> None:
        model = self._with_status(event.model, "racing")
        if event.rung != model.rungs:
            raise ValueError(f"{model.name} has finished rung {model.rungs} and not rung {event.rung}")
        self._put(replace(model, status="dropped"))

    def _apply_model_failed(self, event: ModelFailed) -> None:
        # A merged child fails in the merge step if its checkpoint was lost and could not be merged again.
        scoring: tuple[Status, ...] = ("merged", "racing", "estimated")
        model = self._with_status(event.model, *scoring, *(("planned",) if event.step == "merge" else ()))
        if model.kind == "foundation":
            raise ValueError(f"{model.name} is a foundation; the run needs its scores")
        self._note_finalist(model)
        self._put(replace(model, status="failed", average=None, reason=event.reason, failed_step=event.step))

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
            raise ValueError(f"{model.name}: the checkpoint that was merged again is not that of this child")
        self._put(replace(model, remade=(*model.remade, event.reason), bytes=event.bytes))

    # ------------------------------------------------------------------------------------------------- helpers

    def _note_finalist(self, model: Model) -> None:
        """Keep, with the first final score, which other estimated models have their full score made too.

        So a run goes on or stops by the full scores of all of them, in whichever order they come.
        """
        if model.status == "estimated" and model.name not in self._finalists:
            top = map(self.model, self.top(self.config.strategy.top_k))
            self._finalists.update(other.name for other in top if other.status == "estimated")
        self._finalists.discard(model.name)

    def _note_batch_size(self, size: BatchSize) -> None:
        """Keep the first size that `auto` found, so that all models are scored with one size, also after a restart."""
        if self.config.evaluation.batch_size == "auto" and isinstance(size, int) and self.batch_found is None:
            self.batch_found = size

    def _refuse_after_stop(self, event: RunStopped | GenerationPlanned) -> None:
        if self.stop is not None:
            raise ValueError(f"{event.type}: the run has finished ({self.stop.reason})")

    def _weights(self, name: str, scores: Collection[str]) -> dict[str, float]:
        """Return the weights of the tasks; refuse scores of other tasks."""
        weights = {task.task: task.signed_weight for task in self.config.evaluation.tasks}
        if set(scores) != set(weights):
            raise ValueError(f"{name}: has scores of {', '.join(scores)} instead of {', '.join(weights)}")
        return weights

    def _known(self, name: str) -> Model:
        if name not in self.graph:
            raise ValueError(f"there is no model {name}")
        return self.model(name)

    def _with_status(self, name: str, *statuses: Status) -> Model:
        """Return a model of one of these statuses, so that no outcome is ever overwritten."""
        model = self._known(name)
        if model.status not in statuses:
            raise ValueError(f"{name} is {model.status} and not {' or '.join(statuses)}")
        return model

    def _put(self, model: Model) -> None:
        self.graph.add_node(model.name, model=model)
        if model.status in {"planned", "merged", "racing"}:
            self._open.add(model.name)
        else:
            self._open.discard(model.name)

    def _index(self, generation: int, names: Collection[str]) -> None:
        """Note the models of a new generation, which are younger than all others, in the order of their age."""
        self._names[generation] = sorted(names, key=lambda name: self.model(name).age)
        for name in self._names[generation]:
            self._positions[name] = len(self._positions)


def _with_evaluation(model: Model, seconds: float) -> dict[str, float]:
    """Return a model's times with that of an evaluation; those of the rungs of a race add up."""
    before = model.seconds.get("evaluate", 0.0) if model.race is not None else 0.0
    return {**model.seconds, "evaluate": before + seconds}


def _fixed(config: Config) -> tuple[Any, ...]:
    """Return what no change of settings can change, because models, scores and rungs are named by it."""
    tasks = {task.task for task in config.evaluation.tasks}
    return set(config.foundation_models), tasks, config.merge.recipes, config.evaluation.racing
