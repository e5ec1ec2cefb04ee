"""What changed in a configuration since the run began, and which of it may."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evolve.config import Config

__all__ = ["Change", "changes_between"]

# Settings that decide where and how fast the work is done, not what comes of it.
_FREE = frozenset({"name", "device", "attempts", "evaluation.batch_size"})


@dataclass(frozen=True)
class Change:
    """One key that differs.

    Attributes:
        harmless: Whether the run may go on with it: no result that it has or will have depends on it.
    """

    key: str
    then: Any
    now: Any
    harmless: bool


def changes_between(then: Config, now: Config) -> list[Change]:
    """All keys that differ, in the order of the schema."""
    before, after = _flat(then.model_dump(mode="json")), _flat(now.model_dump(mode="json"))
    keys = list(dict.fromkeys([*before, *after]))
    return [
        Change(key, before.get(key), after.get(key), _harmless(key, before.get(key), after.get(key)))
        for key in keys
        if before.get(key) != after.get(key)
    ]


def _harmless(key: str, then: Any, now: Any) -> bool:
    if key == "strategy.max_generations":
        return bool(now > then)
    return key in _FREE


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted key; a list of tasks counts by position."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            value = {str(number): item for number, item in enumerate(value)}  # noqa: PLW2901
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
