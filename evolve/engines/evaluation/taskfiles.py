"""Task files for lm-eval: each includes the task's own file and overrides what a `TaskSpec` says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolve.engines.evaluation.catalog import Catalog, Definition
from evolve.engines.evaluation.data import local_dataset, with_own_cache
from evolve.engines.evaluation.sourcefiles import SourceFiles
from evolve.engines.protocols import TaskSpec, task_folder
from evolve.errors import TaskError

__all__ = ["PlannedTask", "plan_tasks"]


@dataclass(frozen=True)
class PlannedTask:
    """A task of a job, ready for lm-eval.

    Attributes:
        spec: The specification from the job.
        definition: The task's or group's own file.
        texts: Text of the generated files by file name; a group needs one for each of its tasks and subgroups.
        sources: The files of the task outside lm-eval's package.
        stamps: Path, size and modification time of the files that the task's own file may include or import.
    """

    spec: TaskSpec
    definition: Definition
    texts: Mapping[str, str]
    sources: SourceFiles
    stamps: tuple[tuple[str, int, int], ...]

    @property
    def key(self) -> tuple[object, ...]:
        """Equal keys make equal tasks."""
        spec = self.spec
        # What is set on the tasks of a group is not in the texts.
        options = (spec.num_fewshot, spec.first_shots, repr(sorted(spec.generation_kwargs.items())))
        return spec.task, tuple(self.texts.items()), self.stamps, options

    def write(self, folder: Path) -> list[Path]:
        """Write the generated files, that of the task itself first, and return their paths."""
        paths = []
        for name, text in self.texts.items():
            paths.append(folder / name)
            paths[-1].write_text(text, encoding="utf-8")
        return paths


def plan_tasks(tasks: Sequence[TaskSpec], catalog: Catalog) -> list[PlannedTask]:
    """Find the tasks and generate their files.

    All names are looked up before any option is checked, so that a misspelt task is reported as such.

    Raises:
        TaskError: A task is unknown or occurs twice, or its options do not suit it.
    """
    if not tasks:
        raise TaskError("evaluation: no tasks are given")
    definitions = [catalog.find(spec.task) for spec in tasks]
    closures = [catalog.closure(found) if found.is_group else [found] for found in definitions]
    _refuse_duplicates(tasks, closures)
    return [_plan(spec, members) for spec, members in zip(tasks, closures, strict=True)]


def _refuse_duplicates(tasks: Sequence[TaskSpec], closures: Sequence[Sequence[Definition]]) -> None:
    """Refuse a task that would count twice in the average, or whose results would overwrite another's."""
    origins: dict[str, str] = {}
    folders: dict[str, str] = {}
    for spec, members in zip(tasks, closures, strict=True):
        for member in members:
            if member.name in origins:
                raise TaskError(
                    f"evaluation: task '{member.name}' occurs twice: in '{origins[member.name]}' and in '{spec.task}'"
                )
            origins[member.name] = spec.task
        other = folders.setdefault(task_folder(spec.task), spec.task)
        if other != spec.task:
            raise TaskError(f"evaluation: tasks '{spec.task}' and '{other}' have the same folder name; rename one")


def _plan(spec: TaskSpec, members: Sequence[Definition]) -> PlannedTask:
    for member in members:
        if member.config.get("unsafe_code"):
            raise TaskError(
                f"evaluation: task '{member.name}' executes code that the model wrote; evolve does not run such tasks"
            )
    _refuse_first_shots_without_shots(spec, members)
    entries = [_entries(spec, members[0]), *({"include": str(member.path)} for member in members[1:])]
    for entry, member in zip(entries, members, strict=True):
        if member.kind == "task" and "dataset_kwargs" not in entry:
            entry.update(with_own_cache(member.config, spec.revision if member is members[0] else None))
    texts = {f"{number:04}.yaml": _dump(entry) for number, entry in enumerate(entries)}
    sources = SourceFiles.of(member.path for member in members)
    return PlannedTask(spec=spec, definition=members[0], texts=texts, sources=sources, stamps=_stamps(members, sources))


def _entries(spec: TaskSpec, definition: Definition) -> dict[str, Any]:
    """Return the content of the generated file of one task or group.

    The few-shot number and the generation arguments of a group are not part of it: entries of the group's own file
    would take precedence. They are set on the tasks once these are built.
    """
    entries: dict[str, Any] = {"include": str(definition.path)}
    if definition.kind != "task" and spec.dataset is not None:
        what = "a group" if definition.is_group else "written in Python"
        raise TaskError(f"evaluation: '{spec.task}' is {what}, so no data folder can replace its data set")
    if definition.is_group:
        return entries
    if spec.num_fewshot is not None:
        entries["num_fewshot"] = spec.num_fewshot
    if spec.first_shots:
        entries["fewshot_config"] = {**(definition.config.get("fewshot_config") or {}), "sampler": "first_n"}
    if spec.generation_kwargs:
        entries["generation_kwargs"] = _generation(spec, definition.config)
    if spec.dataset is not None:
        shots = spec.num_fewshot if spec.num_fewshot is not None else definition.config.get("num_fewshot")
        entries |= local_dataset(spec.task, definition.config, spec.dataset, shots or 0)
    return entries


def _refuse_first_shots_without_shots(spec: TaskSpec, members: Sequence[Definition]) -> None:
    """Refuse `fewshot: first_n` where no prompt has an example."""
    if not spec.first_shots:
        return
    own = [member.config.get("num_fewshot") for member in members if not member.is_group]
    if not any(own if spec.num_fewshot is None else [spec.num_fewshot]):
        raise TaskError(
            f"evaluation: task '{spec.task}' has no examples in its prompts, so `fewshot: first_n` does not suit it; "
            "set num_fewshot, or remove fewshot"
        )


def _generation(spec: TaskSpec, config: Mapping[str, Any]) -> dict[str, Any]:
    from lm_eval.config.task import TaskConfig
    from lm_eval.defaults import default_gen_kwargs

    if config.get("output_type", TaskConfig.output_type) != "generate_until":
        raise TaskError(
            f"evaluation: task '{spec.task}' generates no text, so generation_kwargs do not suit it; remove them"
        )
    own = config.get("generation_kwargs")
    if own is None:
        own = default_gen_kwargs(config.get("fewshot_delimiter", TaskConfig.fewshot_delimiter))
    return {**own, **spec.generation_kwargs}


def _dump(entries: Mapping[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(dict(entries), sort_keys=False, allow_unicode=True)
    return text


def _stamps(members: Sequence[Definition], sources: SourceFiles) -> tuple[tuple[str, int, int], ...]:
    beside = {file for folder in {member.path.parent for member in members} for file in folder.iterdir()}
    files = {*beside, *sources.texts, *sources.modules}
    stats = sorted((str(file), file.stat()) for file in files if file.is_file())
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
