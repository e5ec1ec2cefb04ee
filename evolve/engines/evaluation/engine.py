"""Scores one checkpoint with lm-eval."""

from __future__ import annotations

import gc
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from evolve.engines.devices import device_name
from evolve.engines.protocols import EvaluateJob, EvaluateResult, Report, TaskSpec
from evolve.errors import EvaluationError

__all__ = ["BOOTSTRAP_ITERATIONS", "evaluate"]

BOOTSTRAP_ITERATIONS = 1000
"""Any number but 0 gives metrics that are means their analytic standard error; so many are drawn for the others."""


def evaluate(job: EvaluateJob, report: Report, device: str = "auto") -> EvaluateResult:
    """Scores a checkpoint on all tasks of a job, with one model object.

    Scores and standard errors of means are those of `lm_eval run` with the same task files, `--batch_size` and
    `--seed <job.seed>`, which sets all four of lm-eval's seeds. A bootstrapped standard error comes of 1,000 draws.
    The global random generators are left as they were.

    Raises:
        TaskError: A task is unknown, or its data or options are wrong.
        EvaluationError: The model cannot be loaded, or a score is missing or not finite.
        torch.cuda.OutOfMemoryError: As torch raises it.
    """
    from evolve.engines.evaluation.quiet import quiet
    from evolve.engines.evaluation.results import merged, score_of, write_results
    from evolve.engines.generators import preserved_generators

    started = time.monotonic()
    with quiet(evaluating=True), preserved_generators():
        results = merged(_run(job, report, device_name(device)))
        scores = {spec.task: score_of(results, spec) for spec in job.tasks}
        write_results(results, job.output)
    return EvaluateResult(scores=scores, seconds=time.monotonic() - started, batch_size=job.batch_size)


def _run(job: EvaluateJob, report: Report, device: str) -> list[Mapping[str, Any]]:
    """Calls lm-eval once for each limit that occurs, and returns what it returned."""
    from evolve.engines.evaluation.answers import Answering
    from evolve.engines.evaluation.catalog import Catalog
    from evolve.engines.evaluation.models import load_model, model_arguments
    from evolve.engines.evaluation.taskfiles import plan_tasks
    from evolve.engines.evaluation.tasks import TaskLoader
    from evolve.engines.generators import Generators, seed_generators

    report("reading tasks", 0, 1)
    planned = plan_tasks(job.tasks, Catalog(job.task_dirs))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="evolve-tasks-")))
        loader = TaskLoader(folder, planned, model_arguments(job))
        store = stack.enter_context(_store(job))
        report("loading the model", 0, 1)
        seed_generators(job.seed)
        model = stack.enter_context(_freed([load_model(job, device)]))
        loader.start_from(Generators.capture())
        answering = Answering(report, store)
        answering.instances = lambda: [instance for task in loader.built for instance in task.instances]
        answering.attach(model[0])
        stack.callback(lambda: answering.detach(model[0]))
        report("building prompts", 0, 1)
        return [_call(job, device, model[0], loader.manager, names, limit) for limit, names in _by_limit(job.tasks)]


def _call(
    job: EvaluateJob, device: str, lm: Any, manager: Any, tasks: list[str], limit: int | None
) -> Mapping[str, Any]:
    from lm_eval import simple_evaluate

    from evolve.engines.evaluation.models import model_arguments

    results: Mapping[str, Any] | None = simple_evaluate(
        model=lm,
        model_args=model_arguments(job),
        tasks=tasks,
        batch_size=job.batch_size,
        device=device,
        limit=limit,
        bootstrap_iters=BOOTSTRAP_ITERATIONS,
        log_samples=True,
        apply_chat_template=job.apply_chat_template,
        fewshot_as_multiturn=job.fewshot_as_multiturn,
        task_manager=manager,
        random_seed=job.seed,
        numpy_random_seed=job.seed,
        torch_random_seed=job.seed,
        fewshot_random_seed=job.seed,
    )
    if results is None:
        raise EvaluationError("evaluation: lm-eval gave no results; evolve evaluates in one process, without ranks")
    return results


def _by_limit(tasks: Sequence[TaskSpec]) -> list[tuple[int | None, list[str]]]:
    """Tasks by limit; lm-eval has one limit a call."""
    limits = dict.fromkeys(spec.limit for spec in tasks)
    return [(limit, [spec.task for spec in tasks if spec.limit == limit]) for limit in limits]


@contextmanager
def _store(job: EvaluateJob) -> Iterator[Any]:
    from evolve.engines.evaluation.answers import AnswerStore

    if job.request_cache is None:
        yield None
        return
    # The name that lm-eval itself makes of a stem.
    store = AnswerStore(job.request_cache.with_name(job.request_cache.name + "_rank0.db"))
    try:
        yield store
    finally:
        store.close()


@contextmanager
def _freed(model: list[Any]) -> Iterator[list[Any]]:
    """Gives back the memory of the model in a list, which nothing else may hold."""
    import torch

    alive = weakref.ref(getattr(model[0], "model", model[0]))
    try:
        yield model
    finally:
        model.clear()
        if alive() is not None:
            # Only then, as it takes a third of a second: a failed evaluation's traceback or a cycle holds the model.
            gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
