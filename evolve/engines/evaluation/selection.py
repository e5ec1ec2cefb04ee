"""Restricts built tasks of lm-eval to some of their items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

from evolve.engines.protocols import TaskSpec
from evolve.errors import TaskError

__all__ = ["only", "refuse_unknown_items"]


@contextmanager
def only(task: Any, ids: tuple[int, ...]) -> Iterator[None]:
    """Let lm-eval's `evaluate` answer only some items of a task object in this block.

    All prompts up to that of the last item are built, in lm-eval's order, and then the others are dropped. So the
    generator of few-shot examples advances as in a full run, and a prompt does not depend on which items are asked.
    (The tasks of a group whose own Python draws from the global generators while it renders documents are an
    exception: these have one order over all tasks.)

    Args:
        task: A built task of lm-eval.
        ids: Ids of the items, ascending; at least one.
    """
    asked, limit = frozenset(ids), ids[-1] + 1
    build, iterate = task.build_all_requests, task.doc_iterator

    def build_asked(**options: Any) -> None:
        with mock.patch.object(task, "doc_iterator", iterate):
            build(**{**options, "limit": limit})
        task._instances = [instance for instance in task.instances if instance.doc_id in asked]  # noqa: SLF001

    def iterate_asked(**options: Any) -> Iterator[tuple[int, Any]]:
        return ((item, doc) for item, doc in iterate(**{**options, "limit": limit}) if item in asked)

    with (
        mock.patch.object(task, "build_all_requests", build_asked),
        mock.patch.object(task, "doc_iterator", iterate_asked),
    ):
        yield


def refuse_unknown_items(spec: TaskSpec, sizes: Mapping[str, int]) -> None:
    """Refuse a specification with items that the task does not have.

    Args:
        spec: The task of the job.
        sizes: Number of items by lm-eval task.

    Raises:
        TaskError: There is no such lm-eval task or item.
    """
    for name, ids in (spec.items or {}).items():
        if name not in sizes:
            raise TaskError(f"evaluation: '{spec.task}' has no task '{name}'; it has {', '.join(sizes)}")
        if ids and ids[-1] >= sizes[name]:
            raise TaskError(f"evaluation: task '{name}' has no item {ids[-1]}; it has {sizes[name]} items, from 0")
