"""Finds the YAML file that defines a task or group of lm-eval, without parsing all of them.

lm-eval's own index parses its 14,000 files, which takes 6 to 19 s. This module searches their text for the lines that
name a task or a group, once per process, in half a second. For every such name of lm-eval 0.4.13 it finds the file
that lm-eval's index finds. A tag has no file: its tasks are found by lm-eval's index of the folders that mention it.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolve.engines.evaluation.sourcefiles import refuse_special_files
from evolve.errors import TaskError

__all__ = ["Catalog", "Definition"]

_NAMING_LINE = re.compile(
    rb"""^["']?(task|group)["']?[ \t]*:[ \t]*["']?([^\s"'\#\[]+)["']?[ \t]*(?:\#.*)?\r?$""", re.MULTILINE
)
_SKIPPED_FOLDERS = {"__pycache__", ".ipynb_checkpoints"}


@dataclass(frozen=True)
class Definition:
    """The file that defines a task or a group; the same that lm-eval's index finds.

    Attributes:
        name: Name of the task or group.
        path: Absolute path of its YAML file.
        kind: `task`, `group`, or `class` for a task written in Python.
        config: The content of the file and its includes, without importing functions. Do not change it.
    """

    name: str
    path: Path
    kind: str
    config: Mapping[str, Any]

    @property
    def is_group(self) -> bool:
        """Whether this is a group of tasks."""
        return self.kind == "group"


class Catalog:
    """All tasks, groups and tags that a job can name: first those of the job's folders, then lm-eval's."""

    def __init__(self, task_dirs: Sequence[Path] = ()) -> None:
        """Read the task files of the job's own folders.

        Raises:
            TaskError: A folder does not exist.
        """
        self._own = _index(task_dirs) if task_dirs else {}

    def find(self, name: str) -> Definition:
        """Return the definition of a task or group.

        Raises:
            TaskError: There is no such task, or it is a tag, or its file cannot be read.
        """
        definition = self._known(name)
        if definition is not None:
            return definition
        if members := self._tagged(name):
            raise TaskError(
                f"evaluation: '{name}' is a tag of {len(members)} tasks and has no score itself. "
                f"List its tasks ({_some(members)}) or a group that aggregates them."
            )
        near = difflib.get_close_matches(name, [*self._own, *_scan()], n=5, cutoff=0.6)
        hint = f"Did you mean: {', '.join(near)}?" if near else "`lm-eval ls tasks` lists them all."
        raise TaskError(f"evaluation: lm-eval has no task or group '{name}'. {hint}")

    def _tagged(self, tag: str) -> list[str]:
        """Return the sorted names of the tasks with a tag; none if there is no such tag."""
        own = self._own.get(tag)
        if own is not None and own.tags:
            return sorted(own.tags)
        return _tagged(tag)

    def closure(self, group: Definition) -> list[Definition]:
        """Return a group and all its tasks and subgroups, each once, the group first."""
        found = {group.name: group}
        waiting = list(_members(group.config.get("task")))
        while waiting:
            name = waiting.pop()
            if name in found:
                continue
            definition = self._known(name)
            if definition is None:
                # A tag, or a task defined within the group's file, which lm-eval builds without an index.
                waiting.extend(self._tagged(name))
                continue
            found[name] = definition
            if definition.is_group:
                waiting.extend(_members(definition.config.get("task")))
        return list(found.values())

    def _known(self, name: str) -> Definition | None:
        own = self._own.get(name)
        if own is not None and own.yaml_path is not None:
            return _read(name, own.yaml_path)
        path = _scan().get(name)
        return _read(name, path) if path is not None else None


def _members(members: Any) -> Iterator[str]:
    """Yield the names in the `task:` entry of a group, and in groups within it."""
    for member in [members] if isinstance(members, str) else members or ():
        if isinstance(member, str):
            yield member
        elif isinstance(member, dict) and "group" in member:
            yield str(member["group"])
            yield from _members(member.get("task"))
        elif isinstance(member, dict) and "task" in member:
            yield str(member["task"])


def _read(name: str, path: Path) -> Definition:
    import yaml
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        config = load_yaml(path, resolve_func=False)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise TaskError(f"evaluation: the file {path} of task '{name}' cannot be read: {error}") from error
    kind = "class" if "class" in config else "group" if "group" in config else "task"
    return Definition(name=name, path=path.resolve(), kind=kind, config=config)


def _index(folders: Sequence[Path]) -> dict[str, Any]:
    from lm_eval.tasks._index import TaskIndex

    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise TaskError(f"evaluation: the task folder {missing[0]} does not exist")
    files = sorted(path for folder in folders for path in folder.rglob("*.yaml") if not path.is_dir())
    if (broken := next((path for path in files if not path.exists()), None)) is not None:
        raise TaskError(f"evaluation: the task file {broken} is a link to a missing file; remove it")
    refuse_special_files(files)  # lm-eval would wait for a pipe for ever
    index: dict[str, Any] = TaskIndex.build([Path(folder).resolve() for folder in folders])
    return index


def _home() -> Path:
    import lm_eval.tasks

    return Path(lm_eval.tasks.__file__).parent


@functools.cache
def _texts() -> dict[str, bytes]:
    """Return by path the text of lm-eval's task files and of the files without suffix that they include; 8 MB."""
    # This is twice as fast as rglob and read_bytes, which create an object for each path.
    paths = [
        f"{folder}/{name}"
        for folder, _, names in os.walk(_home())
        for name in names
        if name.endswith(".yaml") or "." not in name
    ]
    texts = {}
    for path in sorted(paths):
        if _SKIPPED_FOLDERS.isdisjoint(path.split("/")):
            with open(path, "rb") as file:  # noqa: PTH123
                texts[path] = file.read()
    return texts


@functools.cache
def _scan() -> dict[str, Path]:
    """Return the file of each task and group of lm-eval; the first in path order, as in lm-eval's index."""
    found: dict[str, Path] = {}
    for path, text in _texts().items():
        if path.endswith(".yaml"):
            for match in _NAMING_LINE.finditer(text):
                found.setdefault(match[2].decode(), Path(path))
    return found


@functools.cache
def _tagged(tag: str) -> list[str]:
    from lm_eval.tasks._index import TaskIndex

    word, home = tag.encode(), _home()
    folders = {Path(path).relative_to(home).parts[0] for path, text in _texts().items() if word in text}
    entry = TaskIndex.build([home / folder for folder in sorted(folders)]).get(tag)
    return sorted(entry.tags) if entry is not None and entry.yaml_path is None else []


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
