"""Scores one checkpoint with lm-eval."""

from __future__ import annotations

import gc
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolve.engines.devices import device_name
from evolve.engines.evaluation.reads import GENERATED
from evolve.engines.evaluation.results import score_of
from evolve.engines.protocols import (
    ANSWERS_FILE,
    ITEMS_FILE,
    BatchSize,
    EvaluateJob,
    EvaluateResult,
    Report,
    TaskScore,
    TaskSpec,
    task_folder,
)
from evolve.errors import EvaluationError

if TYPE_CHECKING:
    from evolve.engines.evaluation.interception import Interception
    from evolve.engines.evaluation.request_cache import RequestCache
    from evolve.engines.evaluation.tasks import TaskLoader

__all__ = ["Hooks", "evaluate", "score_all"]

_BOOTSTRAP_ITERATIONS = 1000
"""Draws for bootstrapped standard errors. Any number but 0 gives metrics that are means their analytic one."""


class Hooks:
    """Contexts around the steps of an evaluation, for a caller that explains their errors; these do nothing."""

    def loading(self) -> AbstractContextManager[None]:
        """Return the context in which the model is loaded."""
        return nullcontext()

    def loaded(self, lm: Any) -> None:
        """Take lm-eval's model object after it is loaded; do not keep it."""

    def scoring(self, spec: TaskSpec) -> AbstractContextManager[None]:
        """Return the context in which a task is scored."""
        del spec
        return nullcontext()

    def score(self, results: Mapping[str, Any], spec: TaskSpec) -> TaskScore:
        """Return the score of a task from lm-eval's results; see `score_of`."""
        return score_of(results, spec)


def evaluate(job: EvaluateJob, report: Report, device: str = "auto") -> EvaluateResult:
    """Score a checkpoint on all tasks of a job, with one model object and one call of lm-eval per task.

    Scores, samples and standard errors of means equal those of `lm_eval run --tasks <task>` with the same task file,
    `--limit`, `--batch_size` and `--seed <job.seed>`, which sets all four of lm-eval's seeds. So they do not depend on
    the other tasks or on their order. Where items are chosen, their prompts are those of a run on all items.
    Bootstrapped standard errors use 1,000 draws. The global random generators are preserved.

    Args:
        job: What to evaluate.
        report: Called with the progress; once the model is loaded, in documents of all tasks.
        device: A torch device, or `auto`.

    Raises:
        TaskError: A task is unknown, or its data or options are wrong.
        EvaluationError: The model cannot be loaded, or a score is missing or not finite.
        torch.cuda.OutOfMemoryError: As torch raises it.
    """
    from evolve.engines.evaluation.quiet import quiet
    from evolve.engines.generators import preserved_generators

    started = time.monotonic()
    with quiet(evaluating=True), preserved_generators():
        scores, seconds, batch_size = score_all(job, report, device_name(device), Hooks())
    return EvaluateResult(
        scores=scores, seconds=time.monotonic() - started, batch_size=batch_size, task_seconds=seconds
    )


def score_all(
    job: EvaluateJob, report: Report, device: str, hooks: Hooks
) -> tuple[dict[str, TaskScore], dict[str, float], BatchSize]:
    """Score all tasks within `quiet` and `preserved_generators`, and write their results.

    Args:
        job: What to evaluate.
        report: As for `evaluate`.
        device: torch's name of the device.
        hooks: Contexts around the steps.

    Returns:
        The scores and the wall times of the tasks, and the batch size: for `auto` the one that was found, if lm-eval
        does not find another one for each task.
    """
    from evolve.engines.evaluation.interception import Interception, Progress
    from evolve.engines.evaluation.models import load_model
    from evolve.engines.generators import Generators, seed_generators

    scores: dict[str, TaskScore] = {}
    seconds: dict[str, float] = {}
    documents: dict[str, int] = {}
    with ExitStack() as stack:
        report("reading tasks", 0, 1)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=GENERATED)))
        loaders = _loaders(job, folder)
        # Building all tasks first finds a wrong one before hours of scoring.
        for task, loader in loaders.items():
            begun = time.monotonic()
            documents[task] = loader.count_documents()
            seconds[task] = time.monotonic() - begun
        progress = Progress(report, documents)
        report("loading the model", 0, 1)
        seed_generators(job.seed)
        with hooks.loading():
            model = stack.enter_context(_freed([load_model(job, device)]))
            hooks.loaded(model[0])
        # The command seeds, loads the model and builds the task. Here the model is loaded once, and lm-eval seeds
        # again for each task, so the state that the model left is restored before a task is built.
        state = Generators.capture()
        for task, loader in loaders.items():
            begun = time.monotonic()
            progress.start(task)
            loader.start_from(state)
            with closing(_request_cache(job, task)) as cache:
                requests = Interception(task, progress, cache, loader.instances)
                with hooks.scoring(loader.spec):
                    results = _score(job, model[0], loader, requests, device)
                    scores[task] = hooks.score(results, loader.spec)
                _write(job.output / task_folder(task), results, loader, cache)
            progress.finish(task)
            seconds[task] += time.monotonic() - begun
        found: BatchSize = getattr(model[0], "batch_size_per_gpu", job.batch_size)
    return scores, seconds, found


def _loaders(job: EvaluateJob, folder: Path) -> dict[str, TaskLoader]:
    from evolve.engines.evaluation.catalog import Catalog
    from evolve.engines.evaluation.models import model_arguments
    from evolve.engines.evaluation.taskfiles import plan_tasks
    from evolve.engines.evaluation.tasks import TaskLoader, forget_all_but

    plans = plan_tasks(job.tasks, Catalog(job.task_dirs))
    forget_all_but(plans)
    metadata = model_arguments(job)
    return {plan.spec.task: TaskLoader(folder / task_folder(plan.spec.task), plan, metadata) for plan in plans}


def _request_cache(job: EvaluateJob, task: str) -> RequestCache:
    """Open the request cache of a task, in memory if it has no file, and add the answers of earlier evaluations."""
    from evolve.engines.evaluation.answers import read_answers
    from evolve.engines.evaluation.request_cache import RequestCache

    stem = job.request_caches.get(task)
    # The name that lm-eval itself makes of a stem.
    cache = RequestCache(None if stem is None else stem.with_name(stem.name + "_rank0.db"))
    cache.learn(read_answers(job.answers.get(task, ())))
    return cache


def _write(target: Path, results: Mapping[str, Any], loader: TaskLoader, cache: RequestCache) -> None:
    """Write all files of a scored task."""
    from evolve.engines.evaluation.answers import write_answers
    from evolve.engines.evaluation.items import write_items
    from evolve.engines.evaluation.results import write_results

    target.mkdir()
    write_results(results, target)
    write_items(target / ITEMS_FILE, results, loader.tasks(), loader.spec)
    write_answers(target / ANSWERS_FILE, loader.instances(), cache)


def _score(job: EvaluateJob, lm: Any, loader: TaskLoader, requests: Interception, device: str) -> Mapping[str, Any]:
    """Call lm-eval for one task and return its results."""
    if hasattr(lm, "batch_sizes"):
        # HFLM keeps the sizes that batch size `auto` found for the task before.
        lm.batch_sizes = {}
    with loader.selecting(), requests.attached(lm):
        return _call(job, loader.spec, lm, loader.manager, device)


def _call(job: EvaluateJob, spec: TaskSpec, lm: Any, manager: Any, device: str) -> Mapping[str, Any]:
    from lm_eval import simple_evaluate

    from evolve.engines.evaluation.models import model_arguments

    results: Mapping[str, Any] | None = simple_evaluate(
        model=lm,
        model_args=model_arguments(job),
        tasks=[spec.task],
        batch_size=job.batch_size,
        device=device,
        limit=spec.limit,
        bootstrap_iters=_BOOTSTRAP_ITERATIONS,
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


@contextmanager
def _freed(model: list[Any]) -> Iterator[list[Any]]:
    """Free the memory of the model in a list at the end; nothing else may refer to it."""
    import torch

    alive = weakref.ref(getattr(model[0], "model", model[0]))
    try:
        yield model
    finally:
        model.clear()
        if alive() is not None:
            # A failed evaluation's traceback or a cycle refers to the model. This takes a third of a second.
            gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
