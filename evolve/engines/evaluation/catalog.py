"""Finds the YAML file that defines a task or group of lm-eval, without reading all of them as YAML.

lm-eval's own index parses its 14,000 files, which takes 6 to 19 s. Here their text is searched for the lines that name
a task or a group, which takes half a second, once in a process; for every such name of lm-eval 0.4.13 it gives the
file that lm-eval's index gives. Tags name no file; lm-eval's index over the folders that mention one settles it.
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

from evolve.errors import TaskError

__all__ = ["Catalog", "Definition"]

_NAMING_LINE = re.compile(
    rb"""^["']?(task|group)["']?[ \t]*:[ \t]*["']?([^\s"'\#\[]+)["']?[ \t]*(?:\#.*)?\r?$""", re.MULTILINE
)
_SKIPPED_FOLDERS = {"__pycache__", ".ipynb_checkpoints"}


@dataclass(frozen=True)
class Definition:
    """The file that defines a task or a group, as lm-eval's index would find it.

    Attributes:
        name: Name of the task or group.
        path: Absolute path of its YAML file.
        kind: `task`, `group`, or `class` for a task written in Python.
        config: The file with its includes, functions not imported. Read only.
    """

    name: str
    path: Path
    kind: str
    config: Mapping[str, Any]

    @property
    def is_group(self) -> bool:
        """Whether it is a group of tasks."""
        return self.kind == "group"


class Catalog:
    """All tasks, groups and tags that a job can name: those of its own folders first, then lm-eval's."""

    def __init__(self, task_dirs: Sequence[Path] = ()) -> None:
        self._own = _index(task_dirs) if task_dirs else {}

    def find(self, name: str) -> Definition:
        """Returns the definition of a task or group.

        Raises:
            TaskError: No such task, or a tag, or a file that cannot be read.
        """
        definition = self._known(name)
        if definition is not None:
            return definition
        if members := self.tagged(name):
            raise TaskError(
                f"evaluation: '{name}' is a tag of {len(members)} tasks and has no score of its own. "
                f"Name its tasks ({_some(members)}) or a group that aggregates them."
            )
        near = difflib.get_close_matches(name, [*self._own, *_scan()], n=5, cutoff=0.6)
        hint = f"Did you mean: {', '.join(near)}?" if near else "`lm-eval ls tasks` lists them all."
        raise TaskError(f"evaluation: lm-eval has no task or group '{name}'. {hint}")

    def tagged(self, tag: str) -> list[str]:
        """Names of the tasks that carry a tag, sorted; empty where there is no such tag."""
        own = self._own.get(tag)
        if own is not None and own.tags:
            return sorted(own.tags)
        return _tagged(tag)

    def closure(self, group: Definition) -> list[Definition]:
        """Returns a group and everything beneath it, each definition once, the group first."""
        found = {group.name: group}
        waiting = list(_members(group.config.get("task")))
        while waiting:
            name = waiting.pop()
            if name in found:
                continue
            definition = self._known(name)
            if definition is None:
                # A tag, or else a task that the group spells out in place, which lm-eval builds without an index.
                waiting.extend(self.tagged(name))
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
    """Names that the `task:` entry of a group refers to, those of groups within it included."""
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
    index: dict[str, Any] = TaskIndex.build([Path(folder).resolve() for folder in folders])
    return index


def _home() -> Path:
    import lm_eval.tasks

    return Path(lm_eval.tasks.__file__).parent


@functools.cache
def _texts() -> dict[str, bytes]:
    """Text by path, of lm-eval's task files and of the files without a suffix that they include; 8 MB."""
    # Twice as fast as rglob and read_bytes, which make an object of each path.
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
    """File by name, for all tasks and groups of lm-eval; the first file in path order, as in lm-eval's index."""
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
