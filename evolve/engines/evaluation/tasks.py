"""Builds lm-eval's task objects, and keeps those that the next model can use unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from evolve.engines.evaluation.reads import Reads, recorded
from evolve.engines.evaluation.selection import only, refuse_unknown_items
from evolve.engines.evaluation.taskfiles import PlannedTask
from evolve.engines.generators import Generators, preserved_generators
from evolve.engines.protocols import TaskSpec
from evolve.errors import TaskError

__all__ = ["TaskLoader", "document_counts", "forget_all_but", "is_reusable", "load_errors", "root_cause"]

_kept: dict[tuple[object, ...], tuple[Any, int]] = {}
"""Built tasks and groups of this process by the key of their plan, with the number of task ids drawn for them."""


def load_errors() -> tuple[type[Exception], ...]:
    """Return the errors that files, data and templates of a task may raise when it is built or renders a document."""
    import datasets
    import jinja2

    return (
        datasets.exceptions.DatasetsError,
        jinja2.TemplateError,
        ArithmeticError,
        AssertionError,
        AttributeError,
        EOFError,
        ImportError,
        LookupError,
        OSError,
        RuntimeError,
        SyntaxError,
        TypeError,
        ValueError,
    )


def root_cause(error: BaseException) -> str:
    """Return the message of the innermost cause: `datasets` wraps it in a sentence that says nothing."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip() or type(error).__name__


def forget_all_but(plans: Iterable[PlannedTask]) -> None:
    """Forget the built tasks of this process that are not among these."""
    keys = {plan.key for plan in plans}
    for key in [key for key in _kept if key not in keys]:
        del _kept[key]


def document_counts(tasks: Mapping[str, Any], limit: int | None) -> dict[str, int]:
    """Return the number of documents by task, at most `limit` of each."""
    counts = {name: _length(task.eval_docs) for name, task in tasks.items()}
    return {name: count if limit is None else min(count, limit) for name, count in counts.items()}


def _length(docs: Any) -> int:
    return len(docs) if isinstance(docs, Sized) else sum(1 for _ in docs)


class TaskLoader:
    """A source of lm-eval task managers with exactly one task or group, built as lm-eval's command builds it.

    A built task is kept for the next job of this process only where that cannot change a score. It must be of
    lm-eval's own class, which renews with each evaluation all that it holds of a model. Its data set must not depend
    on the model. Building it must draw nothing from the global random generators that cannot be drawn again later.
    """

    def __init__(self, folder: Path, plan: PlannedTask, metadata: Mapping[str, Any]) -> None:
        """Write the generated task files.

        Args:
            folder: A folder that does not exist; it is needed as long as this object is used.
            plan: The task.
            metadata: What lm-eval's command adds to the metadata of every task: the model's arguments.
        """
        self._plan = plan
        self._metadata = dict(metadata)
        self._state: Generators | None = None
        self._built: dict[str, Any] = {}
        self._selection = ExitStack()
        folder.mkdir()
        plan.write(folder)
        self.manager = self._manager(folder)

    @property
    def spec(self) -> TaskSpec:
        """The specification from the job."""
        return self._plan.spec

    def start_from(self, state: Generators) -> None:
        """Let the manager build the task in this state of the global generators."""
        self._state = state

    def build(self) -> dict[str, Any]:
        """Build the task or reuse the cached one; return it, or its tasks if it is a group, by name."""
        return {task.task_name: task for task in _leaves(self._item())}

    def count_documents(self) -> int:
        """Build the task and return the number of documents that will be scored; preserve the generators.

        Raises:
            TaskError: The task cannot be built, or does not have the items of the specification.
        """
        with preserved_generators():
            counts = document_counts(self.build(), self.spec.limit)
        refuse_unknown_items(self.spec, counts)
        return sum(counts.values()) if self.spec.items is None else sum(map(len, self.spec.items.values()))

    @contextmanager
    def selecting(self) -> Iterator[None]:
        """Restrict the tasks that the manager gives to lm-eval in this block to the items of the specification."""
        with ExitStack() as self._selection:
            yield

    def tasks(self) -> Mapping[str, Any]:
        """Return the tasks that the manager has given to lm-eval, by name."""
        return self._built

    def instances(self) -> list[Any]:
        """Return all requests of the tasks that the manager has given to lm-eval."""
        return [instance for task in self._built.values() for instance in task.instances]

    def _select(self, tasks: dict[str, Any]) -> None:
        """Remove the tasks without an item of the specification, and restrict the others to theirs."""
        if self.spec.items is None:
            return
        for name in list(tasks):
            ids = self.spec.items.get(name)
            if ids:
                self._selection.enter_context(only(tasks[name], ids))
            else:
                del tasks[name]

    def _manager(self, folder: Path) -> Any:
        from lm_eval.tasks import TaskManager

        loader = self

        class Manager(TaskManager):  # type: ignore[misc]  # lm-eval has no types
            """lm-eval's task manager, whose one task may have been built before."""

            def load(self, _: Any) -> Any:
                if loader._state is not None:
                    loader._state.restore()
                loaded = super().load([loader._item()])
                loader._select(loaded["tasks"])
                loader._built = loaded["tasks"]
                return loaded

            def build(self, name: str) -> Any:
                return self._load_spec(name)

        return Manager(include_path=[str(folder)], include_defaults=False, metadata=self._metadata)

    def _item(self) -> Any:
        if self._plan.key in _kept:
            item, draws = _kept[self._plan.key]
            _replay_task_ids(draws)
        else:
            item = self._build()
        for task in _leaves(item):
            if isinstance(task.config.metadata, dict):
                task.config.metadata.update(self._metadata)
        return item

    def _build(self) -> Any:
        from lm_eval.api import task as module

        before, reads = Generators.capture(), Reads()
        try:
            with mock.patch.object(module, "random_task_id", wraps=module.random_task_id) as drawn, recorded(reads):
                item = self.manager.build(self.spec.task)
        except load_errors() as error:
            raise TaskError(
                f"evaluation: lm-eval cannot build the task '{self.spec.task}' "
                f"({type(error).__name__}: {root_cause(error)}). Check its data and its fields."
            ) from error
        if self.spec.revision is not None and reads.revision not in {None, self.spec.revision}:
            raise TaskError(
                f"evaluation: the data of task '{self.spec.task}' on the Hub are at {reads.revision}, and the run "
                f"began with {self.spec.revision}; restore them in the cache of the Hub, or start a new run"
            )
        _override_members(self._plan, item)
        after = Generators.capture()
        before.restore()
        _replay_task_ids(drawn.call_count)
        if after == Generators.capture() and all(is_reusable(task) for task in _leaves(item)):
            _kept[self._plan.key] = (item, drawn.call_count)
        after.restore()
        return item


def _replay_task_ids(count: int) -> None:
    """Replay lm-eval's random draws of task ids, so that kept tasks leave the same generator state as fresh ones."""
    from lm_eval.api.utils import random_task_id

    for _ in range(count):
        random_task_id()


def _leaves(item: Any) -> Iterator[Any]:
    from lm_eval.api.group import Group

    yield from item.get_all_tasks() if isinstance(item, Group) else [item]


def is_reusable(task: Any) -> bool:
    """Return whether two evaluations may use the same object of a task, and the requests that it has built."""
    from lm_eval.api.task import ConfigurableTask

    return type(task) is ConfigurableTask and task.config.custom_dataset is None


def _override_members(plan: PlannedTask, item: Any) -> None:
    from lm_eval.api.samplers import get_sampler

    if not plan.definition.is_group:
        return
    for task in _leaves(item):
        if plan.spec.num_fewshot is not None:
            task.set_config("num_fewshot", plan.spec.num_fewshot)
        if plan.spec.generation_kwargs and task.get_config("output_type") == "generate_until":
            task.set_config("generation_kwargs", dict(plan.spec.generation_kwargs), update=True)
        if plan.spec.first_shots and hasattr(task, "sampler"):
            task.fewshot_cfg.sampler = "first_n"
            task.sampler = get_sampler("first_n")(task.sampler.df)
