"""The files of a checkpoint folder by name, and the one reader of its JSON files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from evolve.errors import ModelError
from evolve.files import MOST_MODEL_JSON, parse_json, read_bytes, shown

__all__ = [
    "INDEX",
    "PICKLED",
    "PICKLED_INDEX",
    "SINGLE",
    "companions",
    "is_complete",
    "is_pickled",
    "read_index",
    "read_json_object",
]

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

_COMPANIONS = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template)\.json"
    r"|tokenizer\.model|spiece\.model|sentencepiece\.bpe\.model|merges\.txt|vocab\.txt|chat_template\.jinja"
    r"|[^.].*\.(tiktoken|py)"
)


def companions(folder: Path) -> list[Path]:
    """Return all files that affect the model's output, except the weights, sorted."""
    names = (path for path in folder.iterdir() if path.is_file() and _COMPANIONS.fullmatch(path.name))
    return sorted(chain(names, (folder / "additional_chat_templates").glob("*.jinja")))


def is_pickled(folder: Path) -> bool:
    """Return whether a folder has pickled weights and no safetensors; safetensors would take precedence."""
    return _has_any(folder, (PICKLED, PICKLED_INDEX)) and not _has_any(folder, (SINGLE, INDEX))


def read_json_object(path: Path, *, unique: bool = False) -> dict[str, Any]:
    """Return the content of a JSON file.

    Args:
        path: The file.
        unique: Whether to refuse a key that is there twice; else the last one counts, as in transformers.

    Raises:
        ModelError: The file cannot be read, is not valid JSON, or does not hold an object.
    """
    try:
        value = parse_json(read_bytes(path, MOST_MODEL_JSON), unique=unique)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}): download the model again") from error
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON ({error}): download the model again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} does not hold a JSON object: download the model again")
    return value


def read_index(path: Path) -> dict[str, str]:
    """Return the file of each tensor by an index of shards.

    Raises:
        ModelError: The index is damaged or empty, or a file that it names is not in its folder.
    """
    places = read_json_object(path, unique=True).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ModelError(f"{path} has no weight_map from tensors to files: download the model again")
    for shard in sorted(set(places.values())):
        if not _is_in(path.parent, shard):
            raise ModelError(
                f"{path} names the shard {shown(shard)}, which is not in the folder: download the model again"
            )
    return places


def is_complete(folder: Path) -> bool:
    """Return whether a folder has all files that its index of safetensors names; without an index it has."""
    if (folder / SINGLE).is_file() or not (folder / INDEX).is_file():
        return True
    try:
        return bool(read_index(folder / INDEX))
    except ModelError:
        return False


def _is_in(folder: Path, name: str) -> bool:
    """Return whether a name is that of a file directly in a folder."""
    try:
        return (folder / name).parent == folder and (folder / name).is_file()
    except OSError:  # the name is too long
        return False


def _has_any(folder: Path, names: Iterable[str]) -> bool:
    return any((folder / name).is_file() for name in names)
