"""The content of a recipe: YAML of plain, finite values, and the models in it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from evolve.errors import RecipeError
from evolve.files import shown
from evolve.yaml import YamlError, parse_yaml

__all__ = ["models_in", "parse_recipe", "paths_in", "renamed"]

_MODEL_KEYS = frozenset({"model", "base_model", "lora", "source", "tokenizer_source"})
_NO_MODELS = frozenset({"base", "union"})  # sources of a tokenizer


def parse_recipe(text: str) -> dict[str, Any]:
    """Return the content of a complete recipe.

    Raises:
        RecipeError: The text is not a YAML mapping with unique keys, or a value is not finite or not plain.
    """
    try:
        content = parse_yaml(text)
    except YamlError as error:
        raise RecipeError(str(error)) from None
    if not isinstance(content, dict):
        raise RecipeError("it is not a YAML mapping")
    for place, value in _values(content, ""):
        if value is not None and not isinstance(value, str | int | float):
            raise RecipeError(f"{place}: YAML reads {shown(value)} as a {type(value).__name__}; put it in quotes")
        if isinstance(value, float) and not math.isfinite(value):
            raise RecipeError(f"{place} = {value}: it must be finite; give a number")
    return content


def models_in(value: Any) -> Iterator[str]:
    """Yield the models that a YAML document names, at any depth."""
    if isinstance(value, list):
        for part in value:
            yield from models_in(part)
    elif isinstance(value, Mapping):
        path, revision = value.get("path"), value.get("revision")
        if isinstance(path, str):
            yield f"{path}@{revision}" if revision and not path.startswith("/") else path
        for key, part in value.items():
            if isinstance(part, str) and key in _MODEL_KEYS and part not in _NO_MODELS:
                yield part
            else:
                yield from models_in(part)


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Return a YAML document with some of its strings replaced."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, Mapping):
        return {key: renamed(part, names) for key, part in value.items()}
    return [renamed(part, names) for part in value] if isinstance(value, list) else value


def paths_in(value: Any) -> set[str]:
    """Return all entries `path` of a YAML document, at any depth."""
    if isinstance(value, Mapping):
        own = {value["path"]} if isinstance(value.get("path"), str) else set()
        return own.union(*map(paths_in, value.values()))
    if isinstance(value, list):
        return set().union(*map(paths_in, value))
    return set()


def _values(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Yield every value of a document that is neither a mapping nor a list, with its place."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _values(entry, f"{place}.{key}".lstrip("."))
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            yield from _values(entry, f"{place}[{number}]")
    else:
        yield place, value
