"""Stage 3, fingerprint: identify each model and each data file by content.

The hashes come from the cache of file hashes, so that each file is read at most once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evolve.config import ARGUMENT_FILES, HUB_ARGUMENTS, Config, path_arguments
from evolve.engines.adapters import ADAPTER_FILES
from evolve.engines.checkpoints import content_identity, fingerprint, is_pickled, model_files
from evolve.engines.pickled import pickled_files
from evolve.engines.protocols import Report
from evolve.engines.sources import LocatedModel, cached_folder
from evolve.errors import ModelError, RecipeError
from evolve.run.hashes import HashCache
from evolve.run.inputs.check import Checked
from evolve.run.inputs.locate import config_key

__all__ = [
    "Fingerprinted",
    "Reporter",
    "content_of",
    "data_paths",
    "files_of",
    "fingerprint_inputs",
    "hash_data",
    "is_bystander",
    "preparation_key",
    "recipe_model_files",
    "recipe_model_identity",
    "refuse_duplicates",
]

Reporter = Callable[[str], Report]
"""A function from the name of a model to a report of progress."""

_CONVERSION = 1  # increase whenever the conversion writes other files
_TOKENIZER_FILES = ("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")


@dataclass(frozen=True)
class Fingerprinted:
    """A checked configuration whose files are identified.

    Attributes:
        contents: Content hash of each model that needs no preparation, by name.
        preparations: Cache key of each model that must be prepared, by name.
        data: SHA-256 of each local file that evaluations read, and the revision of data from the Hub, by name.
        reads: Path of each file in `data` that is in no folder of the configuration, by name.
        unshared: Why the scores of a task cannot be shared with other runs, by task.
        recipe_models: Identity of each model that a recipe names by its path.
    """

    checked: Checked
    contents: Mapping[str, str]
    preparations: Mapping[str, str]
    data: Mapping[str, str]
    reads: Mapping[str, Path]
    unshared: Mapping[str, str]
    recipe_models: Mapping[str, str]


def fingerprint_inputs(
    checked: Checked, hashes: HashCache, report: Reporter, portable: Callable[[Path], str] = str
) -> Fingerprinted:
    """Identify the models and the data of a configuration.

    Args:
        checked: The checked configuration.
        hashes: The cache of file hashes.
        report: Makes reports of progress.
        portable: Returns a path as the journal of the run keeps it.

    Raises:
        ModelError: Two models have the same files.
        OSError: A file cannot be read.
    """
    contents: dict[str, str] = {}
    preparations: dict[str, str] = {}
    by_folder: dict[Path, str] = {}
    for name, model in checked.located.models.items():
        if model.path not in by_folder:
            by_folder[model.path] = content_of(model, hashes, report(name))
        content = by_folder[model.path]
        if model.adapter is not None or model.pickled:
            preparations[name] = preparation_key(model, content, hashes)
        else:
            contents[name] = content
    paths = {name: model.path for name, model in checked.located.models.items()}
    refuse_duplicates({name: contents.get(name, preparations.get(name, "")) for name in paths}, paths)
    reads, unshared = _external_reads(checked, portable)
    data = hash_data(checked.config, reads, hashes)
    data |= {f"{task}/revision": fact.revision for task, fact in checked.tasks.items() if fact.revision is not None}
    models = {path: recipe_model_identity(path, hashes) for path in checked.recipe_models}
    return Fingerprinted(checked, contents, preparations, data, reads, unshared, models)


def content_of(model: LocatedModel, hashes: HashCache, report: Report | None = None) -> str:
    """Return the hash of all files that affect a model's output, without its adapter."""
    if not model.pickled:
        return content_identity(fingerprint(model.path, hash_of=hashes.hash_of, report=report))
    weights = pickled_files(model.path)
    stamps = fingerprint(model.path, weights=weights, hash_of=hashes.hash_of, report=report)
    return _hash({"pickled": {name: (stamp.size, stamp.sha256) for name, stamp in stamps.items()}, "as": _CONVERSION})


def recipe_model_identity(path: str, hashes: HashCache) -> str:
    """Return the content identity of a model, or of a folder with only a tokenizer, that a recipe names by its path.

    Raises:
        RecipeError: The folder is missing or damaged.
    """
    folder = Path(path)
    try:
        model = _recipe_model(folder)
        if model is not None:
            return content_of(model, hashes)
        return content_identity(fingerprint(folder, weights=(), hash_of=hashes.hash_of))
    except (ModelError, OSError) as error:
        raise RecipeError(f"merge.recipe: the model {path} that a recipe names cannot be read ({error})") from None


def recipe_model_files(folder: Path) -> list[Path]:
    """Return the files that the `recipe_model_identity` of a folder covers."""
    model = _recipe_model(folder)
    return model_files(folder, weights=()) if model is None else files_of(model)


def _recipe_model(folder: Path) -> LocatedModel | None:
    """Return the model in a folder; None if the folder has no weights."""
    pickled = is_pickled(folder)
    return LocatedModel(folder, None, pickled=pickled) if pickled or any(folder.glob("*.safetensors")) else None


def preparation_key(model: LocatedModel, content: str, hashes: HashCache) -> str:
    """Return the cache key of the prepared model.

    The key of a merged adapter covers the model, the relevant files of the adapter, and peft's version. The key of
    converted weights covers the files of the model.

    Args:
        model: The model and its adapter, or the model with pickled weights.
        content: The result of `content_of` for the model.
        hashes: The cache of file hashes.
    """
    if model.adapter is None:
        return content
    files = {path.name: hashes.hash_of(path) for path in _adapter_files(model.adapter)}
    return _hash({"model": content, "adapter": files, "peft": version("peft")})


def files_of(model: LocatedModel) -> list[Path]:
    """Return all files of a model and its adapter that affect the model's output."""
    files = model_files(model.path, pickled_files(model.path) if model.pickled else None)
    return files if model.adapter is None else [*files, *_adapter_files(model.adapter)]


def _adapter_files(folder: Path) -> list[Path]:
    names = {*ADAPTER_FILES, *(path.name for pattern in _TOKENIZER_FILES for path in folder.glob(pattern))}
    return [folder / name for name in sorted(names)]


def refuse_duplicates(identities: Mapping[str, str], paths: Mapping[str, Path]) -> None:
    """Raise ModelError if two models have the same identity."""
    known: dict[str, str] = {}
    for name, identity in identities.items():
        if identity in known:
            raise ModelError(
                f"{config_key(name)}: has the same files as {known[identity]} ({paths[name]}); list a model once, and "
                "the base model only as base_model"
            )
        known[identity] = name


def data_paths(config: Config, reads: Mapping[str, Path]) -> dict[str, Path]:
    """Return the path of each local file that evaluations read, by its name in `RunStarted.data`.

    Args:
        config: The configuration with absolute paths.
        reads: Paths of the files that are in no folder of the configuration, by name.
    """
    found: dict[str, Path] = {}
    for task, folder in config.evaluation.datasets.items():
        for path in sorted([*folder.glob("*.jsonl"), *folder.glob("*.parquet")]):
            if not path.name.startswith("."):
                found[f"{task}/{path.name}"] = path
    for number, folder in enumerate(config.evaluation.task_dirs):
        for path in sorted(folder.rglob("*")):  # a task may include and read any of them
            if not is_bystander(folder, name := path.relative_to(folder).as_posix()) and path.is_file():
                found[f"task_dirs.{number}/{name}"] = path
    arguments = path_arguments(config.evaluation.model_args)
    for key, place in arguments.items():
        found |= {f"{ARGUMENT_FILES}{key}/{name}": path for name, path in _argument_files(place).items()}
    given = tuple(f"{ARGUMENT_FILES}{key}/" for key in arguments)
    return found | {name: path for name, path in reads.items() if not name.startswith(given)}


def is_bystander(folder: Path, name: str) -> bool:
    """Return whether a file in a folder of tasks is none of theirs: it is hidden, bytecode, or belongs to a run.

    Editors, file managers and runs write such files at any time. One that a task reads is found when it is read.
    """
    if _is_hidden(name):
        return True
    parts = name.split("/")
    above = ("/".join(parts[:number]) for number in range(1, len(parts)))
    return any((folder / place / "journal.jsonl").is_file() for place in above)


def hash_data(config: Config, reads: Mapping[str, Path], hashes: HashCache) -> dict[str, str]:
    """Return the SHA-256 of each file of `data_paths`."""
    return {name: hashes.hash_of(path) for name, path in data_paths(config, reads).items()}


def _external_reads(checked: Checked, portable: Callable[[Path], str]) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the files that are in no folder of the configuration by name, and why scores of tasks are not shared."""
    config, unshared = checked.config, dict(checked.unshared)
    paths = {name: os.path.realpath(path) for name, path in data_paths(config, {}).items()}
    reads: dict[str, Path] = {}
    for task, facts in checked.tasks.items():
        known = {path for name, path in paths.items() if name.startswith((f"{task}/", "task_dirs."))}
        new = (path for path in facts.reads if os.path.realpath(path) not in known)
        reads |= {f"{task}/reads/{portable(path)}": path for path in new}
        if facts.unidentified is not None:
            unshared.setdefault(task, facts.unidentified)
    arguments = config.evaluation.model_args
    for key in HUB_ARGUMENTS:
        source = arguments.get(key)
        if not isinstance(source, str) or source.startswith("/"):
            continue
        try:
            folder = cached_folder(f"{source}@{arguments.get('revision') or 'main'}")
        except ModelError as error:
            reason = f"evaluation.model_args.{key} = {source}: cannot be identified ({error})"
            unshared = {task: unshared.get(task, reason) for task in checked.tasks}
        else:
            reads |= {f"{ARGUMENT_FILES}{key}/{name}": path for name, path in _argument_files(folder).items()}
    return reads, unshared


def _argument_files(place: Path) -> dict[str, Path]:
    """Return the file that a model argument names, or the files of its folder that can affect a score, by name."""
    if not place.is_dir():
        return {place.name: place}
    files = {path.relative_to(place).as_posix(): path for path in sorted(place.rglob("*")) if path.is_file()}
    return {name: path for name, path in files.items() if not _is_hidden(name) and not name.lower().endswith(".md")}


def _is_hidden(name: str) -> bool:
    """Return whether a file, or a folder above it, is hidden or is one of bytecode."""
    return any(part.startswith(".") or part == "__pycache__" for part in name.split("/"))


def _hash(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
