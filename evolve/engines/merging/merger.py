"""The merge engine: one recipe in, one verified checkpoint out."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from evolve.engines.devices import device_name
from evolve.engines.merging.checking import check_recipe
from evolve.engines.protocols import FilterMatch, MergeJob, MergeResult, RehearseJob, Report
from evolve.errors import MergeError, RecipeError

__all__ = ["merge", "rehearse", "rehearse_recipe", "seed_of"]

_RANDOM_METHODS = ("arcee_fusion", "dare_linear", "dare_ties", "della", "della_linear")
_MODEL_KEYS = ("base_model", "model", "path", "source", "tokenizer_source")
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def merge(job: MergeJob, report: Report, device: str = "auto") -> MergeResult:
    """Merges with mergekit, completes the checkpoint and verifies it; see `Merger`.

    The caller's global random generators are left as they were. A method that draws random numbers is seeded by
    `seed_of` its recipe.

    Raises:
        MergeError: The recipe is not one of existing folders, mergekit cannot carry it out, or the outcome is not a
            complete checkpoint of finite numbers; the message is one sentence.
        torch.OutOfMemoryError: The device is too small; smaller or later, the same job may succeed.
        OSError: The disk is full, which is not the fault of this merge.
    """
    started = time.monotonic()
    try:
        check_recipe(job.recipe)
    except RecipeError as error:
        raise MergeError(str(error)) from error
    from evolve.engines.merging import _companions, _mergekit, _verification

    configuration = _mergekit.parse(job.recipe)
    _check_folders(job, configuration.folders)
    seed = seed_of(job.recipe) if configuration.merge_method in _RANDOM_METHODS else None
    models = list(dict.fromkeys([*job.parents, *configuration.folders]))
    donor, realigned = configuration.folders[0], configuration.realigns  # mergekit changes its configuration
    with _mergekit.quiet_transformers(), _mergekit.kept_generators():
        with _failures(f"mergekit could not merge {' and '.join(path.name for path in job.parents)}"):
            _mergekit.run(configuration, job, device=device_name(device), seed=seed, report=report)
        with _failures("the merged checkpoint cannot be completed"):
            _companions.complete(job, donor=donor, realigned=realigned, seed=seed)
        with _failures("the merged checkpoint does not load"):
            _verification.verify(job, models, report)
    with _failures("the merged checkpoint cannot be read"):
        files = _verification.manifest(job.output, report)
    return MergeResult(sum(size for size, _ in files.values()), time.monotonic() - started, files)


def rehearse(job: RehearseJob, report: Report) -> dict[str, tuple[FilterMatch, ...]]:
    """Plan merges without reading weights; see `RecipeRehearser`.

    Raises:
        RecipeError: mergekit cannot carry one of them out.
    """
    for number, (name, recipes) in enumerate(job.recipes.items()):
        report(f"checking recipe {name}", number, len(job.recipes))
        for recipe in recipes:
            try:
                if job.plan:
                    rehearse_recipe(recipe, trust_remote_code=job.trust_remote_code)
                else:
                    check_recipe(recipe)
            except RecipeError as error:
                raise RecipeError(f"merge.recipe = {name}: {error}") from error
    return dict.fromkeys(job.recipes, ())


def rehearse_recipe(recipe: str, *, trust_remote_code: bool = False) -> None:
    """Makes sure, as far as it can be told without reading weights, that mergekit can carry out a complete recipe.

    It checks the recipe, plans the merge, and looks for each tensor in the headers of the models' files: families and
    layouts that mergekit does not know, and models of unequal depth, come to light here in seconds.

    Raises:
        RecipeError: It cannot.
    """
    check_recipe(recipe)
    from evolve.engines.merging import _mergekit

    configuration = _mergekit.parse(recipe)
    names = " and ".join(folder.name for folder in configuration.folders)
    try:
        _check_absolute(configuration.folders)
        with _mergekit.quiet_transformers(), _failures(f"mergekit cannot merge {names} by this recipe"):
            _mergekit.rehearse(configuration, trust_remote_code=trust_remote_code)
    except MergeError as error:
        raise RecipeError(str(error)) from error


def seed_of(recipe: str) -> int:
    """The seed, 0..2**32-1, of a recipe with a random method.

    It is taken from what the recipe says, with each model replaced by the order of its appearance, so that a run makes
    the same child wherever its folders lie.
    """
    numbers: dict[str, int] = {}

    def without_paths(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: without_paths(value[name], name) for name in sorted(value)}
        if isinstance(value, list):
            return [without_paths(entry) for entry in value]
        if isinstance(value, str) and key in _MODEL_KEYS and value not in {"union", "base"}:
            return numbers.setdefault(value, len(numbers))
        return value

    canonical = json.dumps(without_paths(yaml.safe_load(recipe)), sort_keys=True)
    return int(hashlib.sha256(canonical.encode()).hexdigest()[:8], 16)


def _check_absolute(folders: list[Path]) -> None:
    """mergekit would look for anything else on the hub."""
    for folder in folders:
        if not folder.is_absolute() or not folder.is_dir():
            raise MergeError(f"the recipe refers to {folder}, which is not the absolute path of a folder")


def _check_folders(job: MergeJob, folders: list[Path]) -> None:
    _check_absolute(folders)
    for parent in job.parents:
        if parent not in folders:
            raise MergeError(f"the recipe does not refer to the parent {parent}")
    if not job.output.is_dir() or any(job.output.iterdir()):
        raise MergeError(f"the output folder {job.output} does not exist or is not empty")


@contextmanager
def _failures(what: str) -> Iterator[None]:
    """Turns the ways in which mergekit, transformers and safetensors say that they cannot go on into `MergeError`.

    They raise RuntimeError for unsupported requests; ValueError (also pydantic's) and TypeError for tensors and
    configurations that do not fit; AssertionError and KeyError for tokens or tensors that are not there; OSError and
    SafetensorError for files; ImportError where a tokenizer needs a package. Other exceptions are bugs.
    """
    import torch
    from safetensors import SafetensorError

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (
        AssertionError,
        ImportError,
        KeyError,
        OSError,
        RuntimeError,
        SafetensorError,
        TypeError,
        ValueError,
    ) as error:
        number = _errno(error)
        if number in _FULL_DISK:
            raise OSError(number, f"{what}: {error}") from error
        words = " ".join(str(error).split()) or type(error).__name__
        raise MergeError(f"{what}: {words}") from error


def _errno(error: BaseException) -> int | None:
    """The operating system's error number; safetensors only writes it into its message."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None
