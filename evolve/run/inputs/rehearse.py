"""Stage 5, rehearse: each foundation is scored on a few documents, and one pair is partly merged by each recipe.

Errors that only the engines can find are found here, before the first event, instead of after hours of scoring. The
foundations are loaded one after another, so that the device holds one at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evolve.config import Config
from evolve.engines.protocols import BatchSize, Engines, RehearseEvaluationJob, RehearseMergeJob, TaskScore, TaskSpec
from evolve.errors import ConfigError, ModelError, OutOfMemoryError, RecipeError, RehearsalError, TaskError
from evolve.run.checkpoints import CheckpointGuard
from evolve.run.executors import Call, Executor, run_call
from evolve.run.folder import RunFolder
from evolve.run.hashes import HashCache
from evolve.run.inputs.check import Checked, recipes_of, with_task_key
from evolve.run.inputs.fingerprint import Fingerprinted
from evolve.run.inputs.locate import BASE, config_key
from evolve.run.inputs.prepare import Ready
from evolve.run.ranges import impossible
from evolve.run.tasks import evaluate_job, task_specs

__all__ = ["Rehearsed", "rehearse_found", "rehearse_ready"]


@dataclass(frozen=True)
class Rehearsed:
    """The outcome of a rehearsal.

    Attributes:
        models: Names of the foundations that were scored on a few documents.
        recipes: Names of the recipes by which a pair was partly merged.
        skipped: What could not be rehearsed although its models are here, each with the reason.
    """

    models: tuple[str, ...]
    recipes: tuple[str, ...]
    skipped: tuple[str, ...]

    def __str__(self) -> str:
        parts = []
        if self.models:
            parts.append(f"{', '.join(self.models)} scored on the first documents of each task")
        if self.recipes:
            parts.append(f"a part of one pair merged by {', '.join(self.recipes)}")
        return "; ".join(parts) or "nothing, because no model is ready"


def rehearse_ready(ready: Ready, engines: Engines, executor: Executor) -> Rehearsed:
    """Rehearse a run with all its models and tasks.

    Raises:
        InputError: A merge or an evaluation failed; the message names the configuration key and the cause.
        RunError: The worker failed.
    """
    stage = _Rehearsal(ready.fingerprinted.checked, ready.paths, engines, executor)
    return stage.run(task_specs(stage.config))


def rehearse_found(
    found: Fingerprinted, folder: RunFolder, hashes: HashCache, engines: Engines, executor: Executor
) -> Rehearsed:
    """Rehearse what is on this machine and needs no preparation.

    Args:
        found: The identified inputs.
        folder: The folder that the run will have; prepared models in the caches beside it are rehearsed, too.
        hashes: The cache of file hashes.
        engines: The engines.
        executor: Runs them.

    Raises:
        InputError: As `rehearse_ready`.
        RunError: As `rehearse_ready`.
    """
    paths: dict[str, Path] = {}
    for name, model in found.checked.located.models.items():
        key = found.preparations.get(name)
        if key is None:
            paths[name] = model.path
            continue
        cached = (folder.converted if model.adapter is None else folder.adapters) / key
        if CheckpointGuard(hashes).damage(cached, key) is None:
            paths[name] = cached
    facts = found.checked.tasks
    stage = _Rehearsal(found.checked, paths, engines, executor)
    return stage.run([spec for spec in task_specs(stage.config) if facts[spec.task].documents is not None])


@dataclass(frozen=True)
class _Rehearsal:
    """The rehearsal of the models that are ready.

    Attributes:
        paths: Their checkpoint folders by name.
    """

    checked: Checked
    paths: Mapping[str, Path]
    engines: Engines
    executor: Executor

    @property
    def config(self) -> Config:
        """The configuration."""
        return self.checked.config

    def run(self, tasks: Sequence[TaskSpec]) -> Rehearsed:
        """Rehearse all recipes, then all foundations on some tasks."""
        models = [name for name in self.config.foundation_models if name in self.paths]
        recipes = self._merge(models)
        if tasks:
            self._evaluate(models, tasks)
        return Rehearsed(tuple(models if tasks else ()), recipes, tuple(self._skipped(recipes)))

    def _skipped(self, recipes: Sequence[str]) -> Iterator[str]:
        located = self.checked.located
        for name in self.config.foundation_models:
            if name in located.models and name not in self.paths:
                yield f"an evaluation of {name}, which only the run prepares"
        for name in () if located.missing else self.config.merge.recipes:
            if name not in recipes:
                yield f"a merge by recipe {name}, whose models only the run prepares"

    # --------------------------------------------------------------------------------------------------------- merges

    def _merge(self, models: Sequence[str]) -> tuple[str, ...]:
        """Merge a part of the first pair by each recipe; return the names of the recipes."""
        if len(models) < 2 or BASE not in self.paths:
            return ()
        pair = (models[0], models[1])
        for name in self.checked.templates:
            recipe = next(recipes_of(self.checked, name, [pair], self.paths))
            job = RehearseMergeJob(name, recipe, trust_remote_code=self.config.trust_remote_code)
            call = Call(f"rehearse recipe {name}", self.engines.rehearse_merge, job, gpus=1)
            try:
                run_call(self.executor, call)
            except RecipeError as error:
                raise RecipeError(" ".join(str(error).split())) from None
            except OutOfMemoryError as error:
                raise self._too_small(error) from None
        return tuple(self.checked.templates)

    def _too_small(self, error: OutOfMemoryError) -> ConfigError:
        return ConfigError(f"device = {self.config.device}: {error}; give a device with more memory, or free some")

    # ---------------------------------------------------------------------------------------------------- evaluations

    def _evaluate(self, models: Sequence[str], tasks: Sequence[TaskSpec]) -> None:
        """Score each foundation on a few documents.

        If all of them fail in the same way, a setting is wrong. Otherwise the first one that fails is.
        """
        for name in models:
            error = self._failure(name, tasks)
            if error is None:
                continue
            others = models[1:] if name == models[0] else ()
            if error.setting and others and all(_alike(error, self._failure(other, tasks)) for other in others):
                raise ConfigError(f"{error.setting}: no foundation model can be scored: {error}")
            raise ModelError(f"{config_key(name)} = {self.paths[name]}: {error}")

    def _failure(self, name: str, tasks: Sequence[TaskSpec]) -> RehearsalError | None:
        """Score a foundation; where memory is short, with the smallest batches, as the run would do."""
        size = self.config.evaluation.batch_size
        try:
            try:
                self._score(name, tasks, size)
            except OutOfMemoryError:
                if size in {"auto", 1}:
                    raise
                self._score(name, tasks, 1)
        except RehearsalError as error:
            return error
        except OutOfMemoryError as error:
            if size == "auto":
                raise ConfigError(f"evaluation.batch_size = auto: {error}; set it to a number, for example 1") from None
            raise self._too_small(error) from None
        except TaskError as error:
            raise with_task_key(self.config, error) from None
        return None

    def _score(self, name: str, tasks: Sequence[TaskSpec], batch_size: BatchSize) -> None:
        folder = self.paths[name]
        job = evaluate_job(self.config, checkpoint=folder, tasks=tasks, output=folder, batch_size=batch_size)
        keys = {task.task: f"evaluation.tasks.{number}" for number, task in enumerate(self.config.evaluation.tasks)}
        rehearsal = RehearseEvaluationJob(job, keys)
        call = Call(f"rehearse {name}", self.engines.rehearse_evaluation, rehearsal, gpus=1)
        scores: Mapping[str, TaskScore] = run_call(self.executor, call)
        for task in self.config.evaluation.tasks:
            value = scores[task.task].value if task.task in scores else math.nan
            problem = impossible(task, value) if math.isfinite(value) else None
            if problem is not None:
                raise ConfigError(
                    f"{keys[task.task]}.metric = {task.metric}: {problem}; give this metric of the task another name"
                )


def _alike(error: RehearsalError, other: RehearsalError | None) -> bool:
    return other is not None and str(error) == str(other)
