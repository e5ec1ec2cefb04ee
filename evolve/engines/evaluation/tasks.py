"""Builds lm-eval's task objects, and keeps those that can serve the next model as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from evolve.engines.evaluation.taskfiles import PlannedTask
from evolve.engines.generators import Generators
from evolve.errors import TaskError

__all__ = ["TaskLoader", "load_errors", "reason"]

_kept: dict[tuple[object, ...], tuple[Any, int]] = {}
"""Built tasks and groups of this process by the key of their plan, with the number of names drawn for them."""


def load_errors() -> tuple[type[Exception], ...]:
    """What the files, the data and the templates of a task may raise while it is built or renders a document."""
    import datasets
    import jinja2

    return (
        datasets.exceptions.DatasetsError,
        jinja2.TemplateError,
        ArithmeticError,
        AssertionError,
        AttributeError,
        ImportError,
        LookupError,
        OSError,
        SyntaxError,
        TypeError,
        ValueError,
    )


class TaskLoader:
    """Gives lm-eval a task manager that knows the tasks of one job, built as lm-eval's command would build them.

    A built task is kept for the next job of this process only where that cannot change a score: it is of lm-eval's own
    class, which renews all that it holds of a model with each evaluation, its data set does not depend on the model,
    and building it drew nothing from the global random generators that cannot be drawn again without it.
    """

    def __init__(self, folder: Path, planned: Sequence[PlannedTask], metadata: Mapping[str, Any]) -> None:
        """Writes the generated task files.

        Args:
            folder: An empty folder, needed as long as this object is used.
            planned: The tasks of the job.
            metadata: What lm-eval's command puts into the metadata of every task: the model's arguments.
        """
        self._planned = {plan.spec.task: plan for plan in planned}
        self._metadata = dict(metadata)
        self._start: Generators | None = None
        for plan in planned:
            plan.write(folder)
        keys = {plan.key for plan in planned}
        for key in [key for key in _kept if key not in keys]:
            del _kept[key]
        self.built: list[Any] = []
        self.manager = self._manager(folder)

    def start_from(self, generators: Generators) -> None:
        """Tasks are built in this state of the global generators, the one in which lm-eval's command builds them.

        The command seeds, loads the model and builds the tasks; here the model is there already when lm-eval seeds.
        """
        self._start = generators

    def load(self, names: Sequence[str]) -> list[Any]:
        """Builds the tasks or takes those that were kept, and returns the `Task` or `Group` objects."""
        if self._start is not None:
            self._start.restore()
        return [self._one(name) for name in names]

    def tasks(self, name: str) -> list[Any]:
        """Builds one task, or takes the kept one, and returns it, or those beneath it if it is a group."""
        return list(_tasks(self._one(name)))

    def _manager(self, folder: Path) -> Any:
        from lm_eval.tasks import TaskManager

        loader = self

        class Manager(TaskManager):  # type: ignore[misc]  # lm-eval has no types
            """lm-eval's task manager, with tasks that may have been built before."""

            def load(self, task_list: Any) -> Any:
                loaded = super().load(loader.load(task_list) if isinstance(task_list[0], str) else task_list)
                loader.built = list(loaded["tasks"].values())
                return loaded

            def build(self, name: str) -> Any:
                return self._load_spec(name)

        return Manager(include_path=[str(folder)], include_defaults=False, metadata=self._metadata)

    def _one(self, name: str) -> Any:
        plan = self._planned[name]
        if plan.key in _kept:
            item, draws = _kept[plan.key]
            _draw_names(draws)
        else:
            item = self._build(plan)
        for task in _tasks(item):
            if isinstance(task.config.metadata, dict):
                task.config.metadata.update(self._metadata)
        return item

    def _build(self, plan: PlannedTask) -> Any:
        from lm_eval.api import task as module

        before = Generators.capture()
        try:
            with mock.patch.object(module, "random_task_id", wraps=module.random_task_id) as named:
                item = self.manager.build(plan.spec.task)
        except load_errors() as error:
            raise TaskError(
                f"evaluation: lm-eval cannot build the task '{plan.spec.task}' "
                f"({type(error).__name__}: {reason(error)}). Check its data and its fields."
            ) from error
        _override_members(plan, item)
        after = Generators.capture()
        before.restore()
        _draw_names(named.call_count)
        if after == Generators.capture() and all(_reusable(task) for task in _tasks(item)):
            _kept[plan.key] = (item, named.call_count)
        after.restore()
        return item


def _draw_names(count: int) -> None:
    """Draws what lm-eval draws while it builds a task: a name that no one uses, at each look at the task's own name."""
    from lm_eval.api.utils import random_task_id

    for _ in range(count):
        random_task_id()


def _tasks(item: Any) -> Iterator[Any]:
    from lm_eval.api.group import Group

    yield from item.get_all_tasks() if isinstance(item, Group) else [item]


def _reusable(task: Any) -> bool:
    from lm_eval.api.task import ConfigurableTask

    return type(task) is ConfigurableTask and task.config.custom_dataset is None


def _override_members(plan: PlannedTask, item: Any) -> None:
    if not plan.definition.is_group:
        return
    for task in _tasks(item):
        if plan.spec.num_fewshot is not None:
            task.set_config("num_fewshot", plan.spec.num_fewshot)
        if plan.spec.generation_kwargs and task.get_config("output_type") == "generate_until":
            task.set_config("generation_kwargs", dict(plan.spec.generation_kwargs), update=True)


def reason(error: BaseException) -> str:
    """The innermost cause says most: `datasets` wraps what went wrong in a sentence that says nothing."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip() or type(error).__name__
