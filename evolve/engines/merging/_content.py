"""The content of a recipe: YAML of plain, finite values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from evolve.errors import RecipeError
from evolve.yaml import YamlError, parse_yaml

__all__ = ["parse_recipe", "shown"]


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


def shown(value: Any) -> str:
    """Return a value for a message, on one line that is not too long."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


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
