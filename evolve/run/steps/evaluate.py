"""The evaluation step: a checkpoint to scores, with lm-eval's own results in place."""

from __future__ import annotations

from pathlib import Path

from evolve.engines.protocols import EvaluateJob, EvaluateResult
from evolve.lineage import EvaluateStep, Event, Model, ModelEvaluated
from evolve.run.durable import publish
from evolve.run.executors import Call
from evolve.run.steps.base import Begun, Task, Workshop
from evolve.run.steps.merge import begin_repairs
from evolve.run.store import EvaluationRecord, ScoreStore, evaluation_key, task_specs

__all__ = ["begin_evaluation"]


def begin_evaluation(shop: Workshop, step: EvaluateStep) -> Begun:
    """Score a model, or take its scores from an interrupted run's evaluation or from the score store."""
    model = shop.tree.model(step.model)
    key = evaluation_key(model.identity or "", shop.tree.config, shop.tree.origin.data)
    final = shop.folder.evaluation(model.name)
    record = EvaluationRecord.read(final, key)
    if record is not None:
        return (_evaluated(model, record, reused=False),)
    staged = shop.folder.staged(f"evaluate-{model.name}")
    store = ScoreStore(shop.folder.scores)
    record = store.fetch(key, staged)
    if record is not None:
        publish(staged, final)
        return (_evaluated(model, record, reused=True),)
    repair = begin_repairs(shop, (model.name,))
    if repair is not None:
        return repair

    def finish(result: EvaluateResult) -> tuple[Event, ...]:
        found = EvaluationRecord.of(key, result)
        found.write(staged)
        publish(staged, final)
        store.keep(key, final, shop.folder.staged(f"keep-{model.name}"))
        for leftover in shop.folder.staging.glob(f"requests-{key}*"):
            leftover.unlink()
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
        batch_size=model.batch_size or evaluation.batch_size,
        device=config.device,
        seed=config.seed,
        task_dirs=evaluation.task_dirs,
        apply_chat_template=evaluation.apply_chat_template,
        fewshot_as_multiturn=evaluation.fewshot_as_multiturn,
        trust_remote_code=config.trust_remote_code,
    )
    return Call(f"evaluate {model.name}", shop.engines.evaluate, job)
