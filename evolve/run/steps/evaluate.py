"""The evaluation step: a checkpoint to scores, with lm-eval's own results in place."""

from __future__ import annotations

import math
import sys
from pathlib import Path

from evolve.engines.protocols import EvaluateJob, EvaluateResult
from evolve.errors import EvaluationError
from evolve.lineage import EvaluateStep, Event, FamilyTree, Model, ModelEvaluated
from evolve.lineage.model import weighted_average
from evolve.run.durable import publish
from evolve.run.executors import Call
from evolve.run.steps.base import Begun, Task, Workshop
from evolve.run.steps.merge import find_repair
from evolve.run.store import EvaluationRecord, ScoreStore, evaluation_key, task_specs

__all__ = ["batch_size", "begin_evaluation"]


def begin_evaluation(shop: Workshop, step: EvaluateStep) -> Begun:
    """Score a model, or take its scores from an interrupted run's evaluation or from the score store."""
    model = shop.tree.model(step.model)
    key = evaluation_key(model.identity or "", shop.tree.config, shop.tree.origin.data)
    final = shop.folder.evaluation(model.name)
    store = ScoreStore(shop.folder.scores, shop.folder.root)
    record = EvaluationRecord.read(final, key)
    if record is not None:
        store.keep(key, final)
        return (_evaluated(model, record, reused=record.reused),)
    staged = shop.folder.staged(f"evaluate-{model.name}")
    record = store.fetch(key, staged)
    if record is not None:
        record.model_copy(update={"reused": True}).write(staged)
        publish(staged, final)
        return (_evaluated(model, record, reused=True),)
    repair = find_repair(shop, (model.name,))
    if repair is not None:
        return repair.begin(shop)

    def finish(result: EvaluateResult) -> tuple[Event, ...]:
        found = EvaluationRecord.of(key, result)
        _check_scores(shop, model, found)
        found.write(staged)
        publish(staged, final)
        store.keep(key, final)
        for leftover in shop.folder.staging.glob(f"requests-{key}*"):
            leftover.unlink(missing_ok=True)
        return (_evaluated(model, found, reused=False),)

    return Task(_call(shop, model, staged, key), finish, model.name, "evaluate")


def _evaluated(model: Model, record: EvaluationRecord, *, reused: bool) -> ModelEvaluated:
    return ModelEvaluated(
        model=model.name,
        scores=record.scores,
        seconds=record.seconds,
        batch_size=record.batch_size,
        reused=reused,
    )


def _check_scores(shop: Workshop, model: Model, record: EvaluationRecord) -> None:
    """Refuse, before anything is kept, what the tree could not take in."""
    weights = {task.task: task.signed_weight for task in shop.tree.config.evaluation.tasks}
    if set(record.scores) != set(weights):
        raise EvaluationError(f"{model.name}: has scores of {', '.join(record.scores)} instead of {', '.join(weights)}")
    average, stderr = weighted_average(record.scores, weights)
    if not math.isfinite(average) or not math.isfinite(stderr or 0.0):
        raise EvaluationError(f"{model.name}: the average of its scores is not finite")


def batch_size(tree: FamilyTree) -> int:
    """The configured size, or the smaller one that a lack of memory led to and that holds for all that follow."""
    return min(tree.config.evaluation.batch_size, tree.batch_limit or sys.maxsize)


def _call(shop: Workshop, model: Model, staged: Path, key: str) -> Call:
    config = shop.tree.config
    evaluation = config.evaluation
    job = EvaluateJob(
        checkpoint=shop.folder.locate(model),
        tasks=task_specs(config),
        output=staged,
        request_cache=shop.folder.staging / f"requests-{key}",
        model=evaluation.model,
        model_args=evaluation.model_args,
        batch_size=batch_size(shop.tree),
        device=config.device,
        seed=config.seed,
        task_dirs=evaluation.task_dirs,
        apply_chat_template=evaluation.apply_chat_template,
        fewshot_as_multiturn=evaluation.fewshot_as_multiturn,
        trust_remote_code=config.trust_remote_code,
    )
    return Call(f"evaluate {model.name}", shop.engines.evaluate, job)
