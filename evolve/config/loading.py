"""Read a YAML file into a valid `Config`; an invalid one gives one line for each wrong key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from evolve.config.arguments import FILE_ARGUMENTS, changed_arguments, path_exists
from evolve.config.messages import describe_errors
from evolve.config.schema import Config
from evolve.errors import ConfigError, unreadable
from evolve.files import MOST_TEXT, UnreadableFileError, read_text, shown
from evolve.yaml import YamlError, parse_yaml

__all__ = ["dump_config", "load_config"]

_MOST_PARTS = 50  # of a nested key


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read and validate a configuration file.

    Args:
        path: The YAML file. Relative paths in it are relative to its folder.
        overrides: `key=value` settings that replace those of the file. The parts of a nested key are joined by dots, an
            item of a list is named by its position from 0, and a value is YAML.

    Raises:
        ConfigError: The configuration is invalid; each line of the message names file, key, value and fix.
    """
    try:
        text = read_text(path, MOST_TEXT)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; give the path of a configuration file") from None
    except UnreadableFileError as error:
        raise ConfigError(f"{error}; give the path of a configuration file") from None
    except OSError as error:
        raise ConfigError(unreadable(error)) from None
    raw = _read_mapping(text, str(path))
    for override in overrides:
        _apply_override(raw, override)
    raw.setdefault("name", _as_name(path.stem))
    try:
        return Config.model_validate(_with_absolute_paths(raw, path.parent))
    except ValidationError as error:
        raise ConfigError("\n".join(describe_errors(error, str(path)))) from None


def dump_config(config: Config) -> str:
    """Return the complete configuration as YAML, with every default."""
    data = config.model_dump(mode="json")
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def _read_mapping(text: str, where: str) -> dict[str, Any]:
    try:
        raw = parse_yaml(text)
    except YamlError as error:
        raise ConfigError(f"{where}: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{where}: holds {_kind(raw)} and not a mapping; it needs at least base_model and foundation_models"
        )
    return raw


def _kind(value: Any) -> str:
    names = {type(None): "nothing", list: "a list", str: "a string", int: "a number", float: "a number"}
    return names.get(type(value), f"a {type(value).__name__}")


def _as_name(stem: str) -> str:
    """Return the name of a file as a valid name of a run."""
    return re.sub(r"[^A-Za-z0-9._-]+|\.\.+", "-", stem)[:100].strip("-._") or "run"


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    parts = key.strip().split(".")
    if not sign or not all(parts) or len(parts) > _MOST_PARTS:
        raise ConfigError(f"--set {shown(override)}: is not of the form key=value; write for example strategy.top_k=4")
    try:
        value = parse_yaml(text)
    except YamlError:
        raise ConfigError(f"--set {shown(override)}: the value is not valid YAML; quote it") from None
    try:
        _set(raw, parts, value)
    except ValueError as error:
        raise ConfigError(f"--set {shown(override)}: {error}") from None


def _set(target: dict[str, Any] | list[Any], parts: list[str], value: Any, above: str = "") -> None:
    """Set a nested value in place; ValueError, with the reason, where the path leads nowhere.

    Args:
        target: The mapping or list to change. Inner ones are copied first, because a YAML alias may share them.
        parts: The parts of the key from here on.
        value: The new value.
        above: The key of `target`, joined by dots.
    """
    step: Any = _position(target, parts[0], above) if isinstance(target, list) else _next_key(target, parts)
    rest = parts[str(step).count(".") + 1 :]
    if not rest:
        target[step] = value
        return
    key = f"{above}.{step}" if above else str(step)
    inner = target[step] if isinstance(target, list) else target.get(step)
    if inner is None and rest[0].isdecimal():
        raise ValueError(f"the file does not give {key}, so it has no item {rest[0]}; set {key} as a whole")
    if inner is not None and not isinstance(inner, dict | list):
        raise ValueError(f"{key} is not a mapping; set it as a whole")
    target[step] = copy = list(inner) if isinstance(inner, list) else dict(inner or {})
    _set(copy, rest, value, key)


def _position(items: list[Any], part: str, key: str) -> int:
    """Return the position in a list that a part of a key names; ValueError where there is none."""
    if part.isdecimal() and int(part) < len(items):
        return int(part)
    if not items:
        raise ValueError(f"{key} is an empty list; set it as a whole")
    raise ValueError(f"{key} is a list and has no item {part}; give a number from 0 to {len(items) - 1}")


def _next_key(target: Mapping[str, Any], parts: Sequence[str]) -> str:
    """Return the longest existing key, because names may contain dots; else the part before the first dot."""
    joined = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((key for key in joined if key in target), parts[0])


# ----------------------------------------------------------------------------------------------------------- paths


def _with_absolute_paths(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make relative paths absolute; malformed values are left for the schema to refuse."""
    if isinstance(raw.get("base_model"), str):
        raw["base_model"] = _model_source(raw["base_model"], folder)
    if isinstance(raw.get("foundation_models"), dict):
        raw["foundation_models"] = {
            name: _foundation_source(source, folder) for name, source in raw["foundation_models"].items()
        }
    evaluation = raw.get("evaluation")
    if isinstance(evaluation, dict):
        evaluation = raw["evaluation"] = dict(evaluation)
        if isinstance(evaluation.get("datasets"), dict):
            evaluation["datasets"] = {
                task: _absolute(path, folder) if isinstance(path, str) else path
                for task, path in evaluation["datasets"].items()
            }
        if isinstance(evaluation.get("task_dirs"), list):
            evaluation["task_dirs"] = [
                _absolute(path, folder) if isinstance(path, str) else path for path in evaluation["task_dirs"]
            ]
        if isinstance(evaluation.get("model_args"), dict):
            evaluation["model_args"] = changed_arguments(
                evaluation["model_args"], lambda key, value: _argument(key, value, folder)
            )
    merge = raw.get("merge")
    if isinstance(merge, dict) and "recipe" in merge:
        merge = raw["merge"] = dict(merge)
        recipe = merge["recipe"]
        many = recipe if isinstance(recipe, list) else [recipe]
        resolved = [_recipe_source(item, folder) if isinstance(item, str) else item for item in many]
        merge["recipe"] = resolved if isinstance(recipe, list) else resolved[0]
    return raw


def _absolute(text: str, folder: Path) -> str:
    try:
        return str((folder.absolute() / Path(text).expanduser()).resolve())
    except (OSError, RuntimeError, ValueError):  # an unknown user, a loop of links, a NUL: no folder has this path
        return text


def _foundation_source(source: Any, folder: Path) -> Any:
    if isinstance(source, str):
        return _model_source(source, folder)
    if isinstance(source, dict):
        return {key: _model_source(part, folder) if isinstance(part, str) else part for key, part in source.items()}
    return source


def _argument(key: str, text: str, folder: Path) -> str:
    """Return a path in `model_args` as an absolute one, and any other string unchanged."""
    is_relative = text.startswith(("./", "../", "~/")) or text in {".", ".."}
    is_known = key in FILE_ARGUMENTS and text != "" and path_exists(folder / text)
    return _absolute(text, folder) if is_relative or is_known else text


def _model_source(text: str, folder: Path) -> str:
    """Return a folder as an absolute path and a Hub id unchanged; an existing folder wins over a Hub id."""
    if not text:
        return text
    looks_like_path = text.startswith((".", "/", "~")) or text.count("/") > 1
    return _absolute(text, folder) if looks_like_path or _is_folder(folder / text) else text


def _is_folder(path: Path) -> bool:
    return path_exists(path) and path.is_dir()


def _recipe_source(text: str, folder: Path) -> str:
    """Return a path as an absolute one and the name of a template unchanged; a path ends in .yaml or has a slash."""
    return _absolute(text, folder) if text.endswith((".yaml", ".yml")) or "/" in text else text
