"""Task files for lm-eval: each includes the task's own file and overrides what a `TaskSpec` says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolve.engines.evaluation.catalog import Catalog, Definition
from evolve.engines.evaluation.data import local_dataset
from evolve.engines.protocols import TaskSpec
from evolve.errors import TaskError

__all__ = ["PlannedTask", "plan_tasks", "task_entries"]


@dataclass(frozen=True)
class PlannedTask:
    """A task of a job, ready for lm-eval.

    Attributes:
        spec: What was asked for.
        definition: The task's or group's own file.
        texts: Text of the generated files by file name; a group needs one for each task and group beneath it.
        stamps: Path, size and time of change of the files that the task's own file may include or import.
    """

    spec: TaskSpec
    definition: Definition
    texts: Mapping[str, str]
    stamps: tuple[tuple[str, int, int], ...]

    @property
    def key(self) -> tuple[object, ...]:
        """Equal keys make equal tasks."""
        return self.spec.task, tuple(self.texts.items()), self.stamps

    def write(self, folder: Path) -> list[Path]:
        """Writes the generated files, the one of the task itself first, and returns their paths."""
        paths = []
        for name, text in self.texts.items():
            paths.append(folder / name)
            paths[-1].write_text(text, encoding="utf-8")
        return paths


def plan_tasks(tasks: Sequence[TaskSpec], catalog: Catalog) -> list[PlannedTask]:
    """Finds the tasks and generates their files.

    Raises:
        TaskError: A task is unknown or named twice, or its options do not suit it.
    """
    if not tasks:
        raise TaskError("evaluation: no tasks are given")
    planned: list[PlannedTask] = []
    sources: dict[str, str] = {}
    for number, spec in enumerate(tasks):
        definition = catalog.find(spec.task)
        members = catalog.closure(definition) if definition.is_group else [definition]
        for member in members:
            if member.name in sources:
                raise TaskError(
                    f"evaluation: task '{member.name}' occurs twice: in '{sources[member.name]}' and in '{spec.task}'"
                )
            if member.config.get("unsafe_code"):
                raise TaskError(
                    f"evaluation: task '{member.name}' executes code that the model wrote; evolve does not run it"
                )
            sources[member.name] = spec.task
        entries = [task_entries(spec, definition), *({"include": str(member.path)} for member in members[1:])]
        texts = {f"{number:03}_{index:04}.yaml": _dump(entry) for index, entry in enumerate(entries)}
        planned.append(PlannedTask(spec=spec, definition=definition, texts=texts, stamps=_stamps(members)))
    return planned


def task_entries(spec: TaskSpec, definition: Definition) -> dict[str, Any]:
    """Returns the content of the generated file of one task or group.

    The few-shot number and the generation arguments of a group are no part of it: there, entries of the group's own
    file would win over them. They are set on the tasks once these are built.

    Raises:
        TaskError: An option does not suit the task.
    """
    entries: dict[str, Any] = {"include": str(definition.path)}
    if definition.kind != "task" and spec.dataset is not None:
        what = "a group" if definition.is_group else "written in Python"
        raise TaskError(f"evaluation: '{spec.task}' is {what}, so no data folder can stand in for its data set")
    if definition.is_group:
        return entries
    if spec.num_fewshot is not None:
        entries["num_fewshot"] = spec.num_fewshot
    if spec.generation_kwargs:
        entries["generation_kwargs"] = _generation(spec, definition.config)
    if spec.dataset is not None:
        shots = spec.num_fewshot if spec.num_fewshot is not None else definition.config.get("num_fewshot")
        entries |= local_dataset(spec.task, definition.config, spec.dataset, shots or 0)
    return entries


def _generation(spec: TaskSpec, config: Mapping[str, Any]) -> dict[str, Any]:
    from lm_eval.config.task import TaskConfig
    from lm_eval.defaults import default_gen_kwargs

    if config.get("output_type", TaskConfig.output_type) != "generate_until":
        raise TaskError(f"evaluation: task '{spec.task}' generates no text, so generation_kwargs do not suit it")
    own = config.get("generation_kwargs")
    if own is None:
        own = default_gen_kwargs(config.get("fewshot_delimiter", TaskConfig.fewshot_delimiter))
    return {**own, **spec.generation_kwargs}


def _dump(entries: Mapping[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(dict(entries), sort_keys=False, allow_unicode=True)
    return text


def _stamps(members: Sequence[Definition]) -> tuple[tuple[str, int, int], ...]:
    files = {file for folder in {member.path.parent for member in members} for file in folder.iterdir()}
    stats = sorted((str(file), file.stat()) for file in files if file.is_file())
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
