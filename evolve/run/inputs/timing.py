"""A first estimate of the time of a run: one foundation is scored on a few documents of each task."""

from __future__ import annotations

import math
from dataclasses import dataclass

from evolve.engines.protocols import Engines, EvaluateResult
from evolve.run.executors import Call, Executor, run_call
from evolve.run.inputs.check import Checked
from evolve.run.inputs.locate import BASE
from evolve.run.scratch import scratch_folder
from evolve.run.tasks import evaluate_job, task_specs

__all__ = ["Timing", "time_one_batch"]

_DOCUMENTS = 16  # the most documents that are scored of each task


@dataclass(frozen=True)
class Timing:
    """The estimated time of an evaluation, measured on some documents of each task.

    Attributes:
        model: Name of the foundation that was scored.
        documents: Number of scored documents of all tasks together.
        load_seconds: Time until the first task began: loading the model and the engines.
        evaluation_seconds: Estimate for one model on all documents; None if the data of a task are not downloaded yet.
        evaluations: The most evaluations that the run can need, including the foundations'.
    """

    model: str
    documents: int
    load_seconds: float
    evaluation_seconds: float | None
    evaluations: int

    @property
    def run_seconds(self) -> float | None:
        """Estimate for `evaluations` evaluations, one after another."""
        return None if self.evaluation_seconds is None else self.evaluations * self.evaluation_seconds


def time_one_batch(checked: Checked, engines: Engines, executor: Executor) -> Timing | None:
    """Score a few documents of each task with the first foundation that needs no preparation; None if there is none.

    Raises:
        EvolveError: The evaluation failed.
    """
    config = checked.config
    models = checked.located.models
    name = next((n for n, m in models.items() if n != BASE and m.adapter is None and not m.pickled), None)
    if name is None:
        return None
    specs = [spec.shortened(_DOCUMENTS) for spec in task_specs(config)]
    with scratch_folder() as output:
        job = evaluate_job(config, checkpoint=models[name].path, tasks=specs, output=output)
        result: EvaluateResult = run_call(executor, Call(f"time {name}", engines.evaluate, job, gpus=1))
    load = max(0.0, result.seconds - math.fsum(result.task_seconds.values()))
    needs = checked.needs
    evaluations = needs.first + needs.later * (config.strategy.max_generations - 1) + len(config.foundation_models)
    documents = sum(score.samples for score in result.scores.values())
    return Timing(name, documents, load, _seconds_for_all_documents(checked, result, load), evaluations)


def _seconds_for_all_documents(checked: Checked, result: EvaluateResult, load: float) -> float | None:
    """Extrapolate the seconds of an evaluation to all documents."""
    total = load
    for task, score in result.scores.items():
        documents = checked.tasks[task].documents
        if documents is None:
            return None
        total += result.task_seconds[task] * documents / max(1, score.samples)
    return total
