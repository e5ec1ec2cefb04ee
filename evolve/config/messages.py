"""The messages about an invalid configuration: one line for each wrong key, with its value and the fix."""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from evolve.config.reference import settings
from evolve.config.schema import Config

__all__ = ["describe_errors"]

# What an item of a collection must be; the schema describes the collection.
_ITEMS = {
    "foundation_models": "a folder or a Hub id, or a mapping of model and adapter",
    "merge.recipe": "the name of a template in recipes/, or a path of one",
    "evaluation.tasks": "a mapping with at least the key task, for example {task: winogrande}",
    "evaluation.datasets": "a folder with <split>.jsonl or <split>.parquet",
    "evaluation.task_dirs": "a folder with task YAML files of your own",
}


@dataclass(frozen=True)
class _Place:
    """The place of an error in the configuration.

    Attributes:
        keys: The keys as in the file, without pydantic's labels for the branches of a union.
        known: The valid keys of the innermost mapping.
        expected: What a valid value is.
        of_key: Whether the key itself is wrong, not its value.
    """

    keys: tuple[str, ...]
    known: tuple[str, ...]
    expected: str
    of_key: bool


def describe_errors(error: ValidationError, where: str) -> list[str]:
    """Return one line for each problem; each begins with `where`, the path of the configuration file."""
    found = [(_place(details["loc"]), details) for details in error.errors()]
    lines = [
        f"{where}: {_describe(place, details)}"
        for place, details in found
        if place.of_key or not any(_is_inside(other, place) for other, _ in found)
    ]
    return [line.replace("\r", "\\r").replace("\n", "\\n") for line in dict.fromkeys(lines)]


def _is_inside(inner: _Place, outer: _Place) -> bool:
    """Return whether `inner` lies inside `outer`: the error of the outer value is then redundant."""
    return len(inner.keys) > len(outer.keys) and inner.keys[: len(outer.keys)] == outer.keys


def _describe(place: _Place, error: ErrorDetails) -> str:
    key, value, kind = ".".join(place.keys), error["input"], error["type"]
    if kind == "extra_forbidden":
        return f"{key} = {_shown(value)}: unknown key; {_suggestion(place)}"
    if kind == "missing":
        return f"{key}: is missing; give {place.expected}"
    if kind == "several_keys":
        context = error["ctx"]
        return f"{'.'.join((*place.keys, context['key']))} = {_shown(context['value'])}: {context['reason']}"
    reason = error["msg"].removeprefix("Value error, ") if kind == "value_error" else f"it must be {place.expected}"
    if place.of_key:
        return f"{key}: {reason if kind == 'value_error' else 'a name must be a string; put it in quotes'}"
    return f"{key} = {_shown(value)}: {reason}" if key else reason


def _suggestion(place: _Place) -> str:
    """Return a hint for an unknown key: a similar one of its section, the same name elsewhere, or the known keys."""
    name = place.keys[-1]
    homes: dict[str, list[str]] = {}
    for setting in settings():
        key = setting.key if setting.section else f"the top-level key {setting.key}"
        homes.setdefault(setting.name, []).append(key)
    here = difflib.get_close_matches(name, place.known, n=1, cutoff=0.5)
    elsewhere = difflib.get_close_matches(name, [other for other in homes if other not in place.known], n=1, cutoff=0.8)
    if elsewhere and (not here or _similarity(name, elsewhere[0]) > _similarity(name, here[0])):
        return f"did you mean {' or '.join(homes[elsewhere[0]])}?"
    return f"did you mean {here[0]}?" if here else f"the known ones are {', '.join(place.known)}"


def _similarity(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str, skipkeys=True)
    return text if len(text) <= 240 else text[:237] + "..."


def _place(loc: Sequence[int | str]) -> _Place:
    """Follow the location that pydantic gives through the schema."""
    keys: list[str] = []
    known: tuple[str, ...] = ()
    expected = "a mapping with at least base_model and foundation_models"
    here: Any = Config
    for part in loc:
        if part == "[key]":
            return _Place(tuple(keys), known, expected, of_key=True)
        branches = _branches(here)
        if len(branches) > 1:
            here = next((branch for branch in branches if _label(branch) == str(part).partition("[")[0]), None)
            continue
        here = branches[0]
        if isinstance(here, type) and issubclass(here, BaseModel):
            known = tuple(here.model_fields)
            field = here.model_fields.get(str(part))
            here, expected = (field.annotation, field.description or "") if field else (None, "")
        else:
            expected = _ITEMS.get(".".join(keys), expected)
            items = [item for item in get_args(here) if item is not Ellipsis]
            here = items[-1] if items else None
        keys.append(str(part))
    return _Place(tuple(keys), known, expected, of_key=False)


def _branches(annotation: Any) -> list[Any]:
    """Return the members of a union without null, or the annotation itself where it is no union."""
    if get_origin(annotation) is Annotated:
        return _branches(get_args(annotation)[0])
    if get_origin(annotation) in {Union, types.UnionType}:
        return [branch for branch in get_args(annotation) if branch is not types.NoneType]
    return [annotation]


def _label(branch: Any) -> str:
    """Return the label by which pydantic names a branch of a union in a location."""
    return str(getattr(get_origin(branch) or branch, "__name__", ""))
