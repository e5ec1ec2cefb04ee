"""Render the documents of built tasks with their few-shot examples, and name the row that cannot be rendered."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from evolve.engines.evaluation.tasks import document_counts, load_errors, root_cause
from evolve.engines.protocols import Report, TaskSpec
from evolve.errors import TaskError

__all__ = ["render_documents", "try_results"]

_EVERY = 100  # documents between two reports of progress


def render_documents(tasks: Mapping[str, Any], spec: TaskSpec, seed: int, report: Report) -> dict[str, int]:
    """Render each document that will be scored as lm-eval will, and return their numbers by task.

    Args:
        tasks: The built task, or the tasks of a group, by name.
        spec: The task of the job.
        seed: Seed of the few-shot sampler.
        report: Called with the number of rendered documents.

    Raises:
        TaskError: A document or one of its few-shot examples cannot be rendered.
    """
    counts = document_counts(tasks, spec.limit)
    done, total = 0, sum(counts.values())
    for task in tasks.values():
        task.set_fewshot_seed(seed)
        for number, doc in task.doc_iterator(limit=spec.limit):
            if done % _EVERY == 0:
                report(f"rendering {spec.task}", done, total)
            try:
                _requests(task, number, doc, task.config.num_fewshot or 0)
            except load_errors() as error:
                raise TaskError(_message(task, spec.task, number, doc, error)) from error
            done += 1
    return counts


def try_results(tasks: Iterable[Any]) -> None:
    """Score an invented answer to the first document of each task, so that files that are read only then are recorded.

    A function that cannot handle the answer is left alone.
    """
    for task in tasks:
        with contextlib.suppress(*load_errors()):
            number, doc = next(iter(task.doc_iterator(limit=1)))
            requests = _requests(task, number, doc, 0)
            results = task.process_results(doc, [_answer(request.request_type) for request in requests])
            for metric, value in results.items():
                task.aggregation()[metric]([value])


def _requests(task: Any, number: int, doc: Any, shots: int) -> list[Any]:
    """Return the requests of a document, made by the calls that lm-eval's `build_all_requests` makes."""
    options = {"apply_chat_template": False, "chat_template": None}
    context = task.fewshot_context(
        doc,
        num_fewshot=shots,
        system_instruction=None,
        fewshot_as_multiturn=False,
        gen_prefix=task.doc_to_prefix(doc),
        **options,
    )
    metadata = (task.config["task"], number, task.config.repeats)
    made = task.construct_requests(doc=doc, ctx=context, metadata=metadata, **options)
    if not callable(getattr(task.config, "process_results", None)):
        task.doc_to_target(doc)
    return made if isinstance(made, list) else [made]


def _answer(kind: str) -> Any:
    return {"loglikelihood": (-1.0, False), "loglikelihood_rolling": -1.0}.get(kind, "")


def _message(task: Any, name: str, number: int, doc: Any, error: Exception) -> str:
    place, reason = _place(task, _split(task), number), f"{type(error).__name__}: {root_cause(error)}"
    shots = task.config.num_fewshot or 0
    try:
        _requests(task, number, doc, 0)
    except load_errors():
        return f"evaluation: {place} of task '{name}' cannot be rendered ({reason})"
    for row, example in _examples(task):
        try:
            task.doc_to_text(example), task.doc_to_target(example)
        except load_errors():
            place = _place(task, _examples_split(task), row)
            return f"evaluation: {place} of task '{name}' cannot be rendered as a few-shot example ({reason})"
    return f"evaluation: {place} of task '{name}' cannot be rendered with {shots} few-shot examples ({reason})"


def _examples(task: Any) -> Iterator[tuple[int, Any]]:
    sampler = getattr(task, "sampler", None)
    yield from enumerate(sampler.fewshot_docs() if sampler is not None else ())


def _split(task: Any) -> str:
    return str(getattr(task.config, "test_split", None) or getattr(task.config, "validation_split", None) or "")


def _examples_split(task: Any) -> str:
    names = ("fewshot_split", "training_split", "validation_split", "test_split")
    return str(next((split for name in names if (split := getattr(task.config, name, None))), ""))


def _place(task: Any, split: str, number: int) -> str:
    """Describe where a document is, counted from 1: its row in a local file if all rows are documents."""
    files = (getattr(task.config, "dataset_kwargs", None) or {}).get("data_files")
    file = files.get(split) if isinstance(files, dict) else files
    if isinstance(file, str) and Path(file).is_file():
        what = "document" if getattr(task.config, "process_docs", None) else "row"
        return f"{what} {number + 1} of {file}, data"
    return f"document {number + 1}" + (f" of the split '{split}'" if split else "")
