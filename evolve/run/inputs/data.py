"""Checks on resume: the data of the tasks and other files must be the same as when the run began.

All files are compared by content, without an engine. New paths are recorded, and changed content is refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from evolve.config import ARGUMENT_FILES, Config, path_arguments
from evolve.errors import ConfigError, RecipeError
from evolve.lineage import FamilyTree
from evolve.run.folder import RunFolder
from evolve.run.hashes import HashCache
from evolve.run.inputs.fingerprint import data_paths, is_bystander, recipe_model_identity
from evolve.run.inputs.locate import check_folders

__all__ = ["recorded_hashes", "recorded_paths", "refuse_changed_data"]


def refuse_changed_data(tree: FamilyTree, config: Config, folder: RunFolder, hashes: HashCache) -> dict[str, str]:
    """Compare all files of the run beside its base and its foundations with those that it began with.

    Args:
        tree: The family tree of the run.
        config: The configuration with the current, absolute paths.
        folder: The run folder.
        hashes: The cache of file hashes.

    Returns:
        The new path of each file that has moved and is in no folder of the configuration, by its name in the journal.

    Raises:
        ConfigError: A file is missing, new or changed, or a folder is missing.
        RecipeError: A model that a recipe names is missing or has changed.
    """
    check_folders(config)
    for model, identity in tree.origin.recipe_models.items():
        if recipe_model_identity(model, hashes) != identity:
            raise RecipeError(
                f"{model}: the files of this model, which a recipe names, have changed since the run began; restore "
                "them, or start a new run"
            )
    reads = {name: _places(text, tree, config, folder) for name, text in tree.reads.items()}
    then = recorded_hashes(tree, config)
    paths = recorded_paths(tree, config, folder, {name: places[0] for name, places in reads.items()})
    for name in sorted({*paths, *then}):
        path = paths.get(name)
        others = reads[name][1:] if name in reads and path == reads[name][0] else []
        for place in (path, *others):
            now = hashes.hash_of(place) if place is not None and place.is_file() else None
            if now != then.get(name):
                raise ConfigError(_difference(folder, name, place, known=name in then, found=now is not None))
    moved = {name: folder.portable(places[0]) for name, places in reads.items()}
    return {name: path for name, path in moved.items() if path != tree.reads[name]}


def recorded_paths(tree: FamilyTree, config: Config, folder: RunFolder, reads: Mapping[str, Path]) -> dict[str, Path]:
    """Return `data_paths` without the files of model arguments that a journal of an older version does not record."""
    paths = data_paths(config, reads)
    unrecorded = _unrecorded_arguments(tree, config, folder, paths)
    return {name: path for name, path in paths.items() if name not in unrecorded}


def recorded_hashes(tree: FamilyTree, config: Config) -> dict[str, str]:
    """Return the recorded SHA-256 of each file of `recorded_paths`, by name.

    An older version of evolve recorded all files in the folders, also those that no task reads.
    """
    data = tree.origin.data.items()
    return {name: digest for name, digest in data if not _is_revision(name, config) and not _is_extra(name, config)}


def _is_extra(name: str, config: Config) -> bool:
    where, _, file = name.partition("/")
    if where in config.evaluation.datasets:
        return file.startswith(".")
    folders = {f"task_dirs.{number}": folder for number, folder in enumerate(config.evaluation.task_dirs)}
    return where in folders and is_bystander(folders[where], file)


def _is_revision(name: str, config: Config) -> bool:
    return name in {f"{task.task}/revision" for task in config.evaluation.tasks}


def _places(text: str, tree: FamilyTree, config: Config, folder: RunFolder) -> list[Path]:
    """Return where a file of `reads` may be read now: beside a task folder that has moved, and where it was."""
    recorded = folder.relocated(text, tree.root)
    before = folder.located_config(tree.config).evaluation
    folders = zip(before.task_dirs, config.evaluation.task_dirs, strict=False)
    beside = [Path(os.path.normpath(now / os.path.relpath(recorded, then))) for then, now in folders if then != now]
    places = [path for path in beside if path.is_file()]
    return [*places, recorded] if recorded.is_file() or not places else places


def _unrecorded_arguments(tree: FamilyTree, config: Config, folder: RunFolder, paths: Mapping[str, Path]) -> list[str]:
    """Return the names of files that unchanged model arguments name and the journal does not record.

    A journal of an older version of evolve records none of them.
    """
    before = path_arguments(folder.located_config(tree.config).evaluation.model_args)
    same = {key for key, path in path_arguments(config.evaluation.model_args).items() if before.get(key) == path}
    prefixes = [f"{ARGUMENT_FILES}{key}/" for key in same]
    unrecorded = tuple(start for start in prefixes if not any(name.startswith(start) for name in tree.origin.data))
    return [name for name in paths if unrecorded and name.startswith(unrecorded)]


def _difference(folder: RunFolder, name: str, path: Path | None, *, known: bool, found: bool) -> str:
    what = "has changed" if known and found else "is missing" if known else "is new"
    return (
        f"{folder.root}: {path or name} ({name}) {what} since the run began, and evaluations read it; restore it as it "
        "was, or start a new run"
    )
