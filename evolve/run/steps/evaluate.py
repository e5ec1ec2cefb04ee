"""The evaluation step: scores of a checkpoint, with lm-eval's results beside them.

Scores are cached per model and task, and only tasks without a cached score are evaluated. A rung of a race is an
evaluation of some items; its results replace those of the rung before, whose items it includes.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from evolve.config import TaskConfig
from evolve.engines.protocols import BatchSize, EvaluateResult, task_folder
from evolve.errors import EvaluationError, RunFolderError
from evolve.lineage import EvaluateStep, Event, Model, ModelEvaluated, RungScored
from evolve.run.claims import Claim
from evolve.run.durable import publish
from evolve.run.executors import Call
from evolve.run.items import join_items
from evolve.run.prompts import share_prompts
from evolve.run.ranges import impossible
from evolve.run.steps.base import Begun, RunContext, StepInFlight, Waiting
from evolve.run.steps.race import Race, find_race
from evolve.run.steps.repair import find_repair
from evolve.run.store import ScoreRecord, ScoreStore
from evolve.run.tasks import evaluate_job, prompts_key, score_key, task_specs

__all__ = ["begin_evaluation"]

_LOG = logging.getLogger("evolve.run")
Records = Mapping[str, ScoreRecord]


def begin_evaluation(context: RunContext, step: EvaluateStep) -> Begun:
    """Score a model on the tasks that have no cached score."""
    model = context.tree.model(step.model)
    race = None if step.rung is None else find_race(context, model, step.rung)
    work = _Evaluation(context, model, race)
    records = work.read(work.final)
    if len(records) == len(work.keys):
        return work.finished(records)
    claim = work.claim()
    if claim is None:
        return Waiting(f"{model.name}: another run is scoring it; this one waits for the scores")
    with ExitStack() as stack:
        stack.callback(claim.release)
        known = work.collect_known()
        if len(known) == len(work.keys):
            work.publish(work.known)
            return work.finished(known)
        repair = find_repair(context, (work.model.name,))
        if repair is not None:
            return repair.begin(context)
        begun = StepInFlight(work.call(known), work.finish, work.model.name, "evaluate", claim=claim)
        stack.pop_all()
        return begun


@dataclass(frozen=True)
class _Evaluation:
    """The scores of one model, from the score store and lm-eval to the run folder.

    Attributes:
        race: The rung of its race of which the items are scored; None to score it in full.
    """

    context: RunContext
    model: Model
    race: Race | None

    @cached_property
    def keys(self) -> dict[str, str]:
        """Key of the score on each task, by task."""
        tree = self.context.tree
        versions, identity = tree.origin.versions, self.model.identity or ""
        return {
            task.task: score_key(
                identity,
                tree.config,
                task,
                versions=versions,
                data=tree.origin.data,
                items=self.items.get(task.task),
            )
            for task in tree.config.evaluation.tasks
        }

    @cached_property
    def items(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Ids of the items of the rung by task, as in `TaskSpec`; none if all are scored."""
        return {} if self.race is None else {task: self.race.items(task) for task in self.tasks}

    @cached_property
    def tasks(self) -> dict[str, TaskConfig]:
        """The configured tasks by name."""
        return {task.task: task for task in self.context.tree.config.evaluation.tasks}

    @property
    def final(self) -> Path:
        """Final folder of the scores."""
        return self.context.folder.evaluation(self.model.name)

    @property
    def known(self) -> Path:
        """Staging folder of the cached scores."""
        return self.context.folder.staging / f"known-{self.model.name}"

    @property
    def store(self) -> ScoreStore:
        """The store that runs share."""
        return ScoreStore(self.context.folder.scores, self.context.folder.root)

    def read(self, folder: Path) -> Records:
        """Return the records in a folder of scores by task, only those of this model and these settings."""
        if folder.is_symlink():
            return {}
        found = {
            task: ScoreRecord.read(folder / task_folder(task), key, self.tasks[task]) for task, key in self.keys.items()
        }
        return self._usable(found, folder)

    def collect_known(self) -> Records:
        """Copy cached scores of tasks that are shared from the store to their staging folder."""
        self.context.folder.staged(self.known.name)
        shared = [task for task in self.keys if task not in self.context.tree.origin.unshared]
        found = {
            task: self.store.fetch(self.keys[task], self.tasks[task], self.known / task_folder(task)) for task in shared
        }
        usable = self._usable(found, self.known)
        for task in found.keys() - usable.keys():
            shutil.rmtree(self.known / task_folder(task), ignore_errors=True)
        return usable

    def claim(self) -> Claim | None:
        """Claim the scores of the tasks that are shared; return None if another run computes one of them."""
        shared = self.keys.keys() - self.context.tree.origin.unshared.keys()
        return self.store.claim(self.keys[task] for task in shared)

    def _usable(self, found: Mapping[str, ScoreRecord | None], folder: Path) -> Records:
        """Return the records that there are; in a race only those beside which the values of the items can be read."""
        records = {task: record for task, record in found.items() if record is not None}
        if self.race is None:
            return records
        unusable = set()
        for task in records:
            try:
                self.race.estimate(task, self.tasks[task].metric, folder / task_folder(task))
            except RunFolderError as error:
                _LOG.warning("%s: %s is scored again: %s", self.model.name, task, error)
                unusable.add(task)
        return {task: record for task, record in records.items() if task not in unusable}

    def call(self, known: Records) -> Call:
        """Return the call that scores the model on the tasks without a cached score."""
        context = self.context
        config = context.folder.located_config(context.tree.config)
        origin = context.tree.origin
        asked = [spec for spec in task_specs(config, origin.data) if spec.task not in known]
        tasks = [replace(s, limit=None, items=self.items[s.task]) if s.task in self.items else s for s in asked]
        job = evaluate_job(
            config,
            checkpoint=context.folder.checkpoint_of(self.model),
            tasks=tasks,
            output=context.folder.staged(self._purpose),
            batch_size=context.tree.batch_size,
            request_caches={spec.task: context.folder.request_cache(self.keys[spec.task]) for spec in tasks},
            answers={spec.task: self.answers(spec.task) for spec in tasks},
            prompts={spec.task: self.prompts(spec.task) for spec in tasks if spec.task not in origin.unshared},
            reads={name: context.folder.locate(path) for name, path in context.tree.reads.items()},
        )
        rung = "" if self.race is None else f" on {self.race.share:.0%} of the items"
        return Call(f"evaluate {self.model.name}{rung}", context.engines.evaluate, job, gpus=1)

    def prompts(self, task: str) -> Path:
        """Return the folder that keeps the prompts of a task."""
        tree = self.context.tree
        key = prompts_key(tree.config, self.tasks[task], versions=tree.origin.versions, data=tree.origin.data)
        return self.context.folder.prompts / key

    def answers(self, task: str) -> tuple[Path, ...]:
        """Return the files with this model's answers to other items of a task, in the same settings."""
        key, configured = self.keys[task], self.tasks[task]
        own = None if self.final.is_symlink() else ScoreRecord.answers(self.final / task_folder(task), key, configured)
        shared = () if task in self.context.tree.origin.unshared else self.store.answers(key, configured)
        return shared if own is None else (own, *shared)

    def publish(self, staged: Path) -> None:
        """Move the complete scores of all tasks into place, with the values of their items in one file."""
        join_items(staged, self.tasks)
        publish(staged, self.final)

    def finish(self, result: EvaluateResult) -> tuple[Event, ...]:
        """Publish the new and the cached scores, and add the new ones to the store."""
        folder = self.context.folder
        staged = folder.staging / self._purpose
        known = self.read(self.known)
        self._refuse_other_tasks({*known, *result.scores})
        new = {task: ScoreRecord.of(self.keys[task], task, result) for task in result.scores}
        records = {**known, **new}
        self._check(records)
        for task, record in new.items():
            place = staged / task_folder(task)
            place.mkdir(exist_ok=True)
            share_prompts(place, self.prompts(task))
            record.write(place)
        for task in records.keys() - new.keys():
            (self.known / task_folder(task)).rename(staged / task_folder(task))
        self.publish(staged)
        self.known.rmdir()
        for task in new:
            self._keep(task)
            folder.delete_request_cache(folder.request_cache(self.keys[task]))
        return (self._event(records, result.seconds, result.batch_size),)

    def finished(self, records: Records) -> tuple[Event, ...]:
        """Return the event for scores that are in place."""
        for task, record in records.items():
            if not record.reused:
                self._keep(task)
        own = [record for record in records.values() if not record.reused]
        seconds = math.fsum(record.seconds for record in own or records.values())
        return (self._event(records, seconds, next(iter(own or records.values())).batch_size),)

    @property
    def _purpose(self) -> str:
        return f"evaluate-{self.model.name}"

    def _keep(self, task: str) -> None:
        """Add a score to the store, unless what it depends on is not known."""
        if task not in self.context.tree.origin.unshared:
            self.store.keep(self.keys[task], self.tasks[task], self.final / task_folder(task))

    def _refuse_other_tasks(self, found: set[str]) -> None:
        """Raise EvaluationError if a score is missing, or there is one of another task."""
        if found != set(self.tasks):
            listed, expected = ", ".join(sorted(found)), ", ".join(self.tasks)
            raise EvaluationError(f"{self.model.name}: has scores of {listed} instead of {expected}")

    def _check(self, records: Records) -> None:
        """Raise EvaluationError if a score is impossible, before anything is published."""
        for name, record in records.items():
            problem = impossible(self.tasks[name], record.score.value)
            if problem is not None:
                raise EvaluationError(f"{self.model.name}: the score on {name} is impossible: {problem}")

    def _event(self, records: Records, seconds: float, size: BatchSize) -> ModelEvaluated | RungScored:
        if self.race is not None:
            return RungScored(
                model=self.model.name,
                rung=self.race.rung,
                share=self.race.share,
                estimates={
                    name: self.race.estimate(name, task.metric, self.final / task_folder(name))
                    for name, task in self.tasks.items()
                },
                seconds=0.0 if all(record.reused for record in records.values()) else seconds,
                batch_size=size,
            )
        return ModelEvaluated(
            model=self.model.name,
            scores={task: records[task].score for task in self.keys},
            seconds=seconds,
            batch_size=size,
            reused=all(record.reused for record in records.values()),
            reused_tasks=tuple(task for task in self.keys if records[task].reused),
        )
