"""Files and folders that the values of `evaluation.model_args` name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["FILE_ARGUMENTS", "HUB_ARGUMENTS", "changed_arguments", "path_arguments", "path_exists"]

HUB_ARGUMENTS = ("tokenizer", "peft", "delta")
"""Arguments that name a folder or a repository of the Hub."""

FILE_ARGUMENTS = (*HUB_ARGUMENTS, "chat_template")
"""Arguments whose value is a path if a file or folder of that name exists."""

_SCRATCH = frozenset({"cache_dir", "download_dir", "offload_folder"})  # an engine writes there; no score depends on it


def changed_arguments(arguments: Mapping[str, Any], change: Callable[[str, str], Any]) -> dict[str, Any]:
    """Return arguments with each string, at any depth, replaced by `change(key, string)`; the key is dotted."""
    return {key: _changed(key, value, change) for key, value in arguments.items()}


def path_arguments(arguments: Mapping[str, Any]) -> dict[str, Path]:
    """Return the existing files and folders that arguments name by an absolute path, by dotted key."""
    found: dict[str, Path] = {}

    def collect(key: str, value: str) -> str:
        if value.startswith("/") and key.partition(".")[0] not in _SCRATCH and path_exists(Path(value)):
            found[key] = Path(value)
        return value

    changed_arguments(arguments, collect)
    return found


def path_exists(path: Path) -> bool:
    """Return whether there is a file or a folder with a path that may be any string."""
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long for this disk, or with a NUL
        return False


def _changed(key: str, value: Any, change: Callable[[str, str], Any]) -> Any:
    if isinstance(value, str):
        return change(key, value)
    if isinstance(value, Mapping):
        return {name: _changed(f"{key}.{name}", part, change) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_changed(f"{key}.{number}", part, change) for number, part in enumerate(value)]
    return value
