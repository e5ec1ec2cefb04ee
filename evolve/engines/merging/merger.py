"""The merge engine: one recipe in, one verified checkpoint out."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evolve.engines.checkpoints import NotFiniteError, first_bad_tensor, verify
from evolve.engines.devices import device_name
from evolve.engines.generators import preserved_generators
from evolve.engines.merging._content import parse_recipe
from evolve.engines.merging._failures import check_absolute, failures
from evolve.engines.merging.checking import check_recipe
from evolve.engines.protocols import MergeJob, MergeResult, Report
from evolve.errors import MergeError, RecipeError

__all__ = ["blame", "merge", "seed_of"]

_RANDOM_METHODS = ("arcee_fusion", "dare_linear", "dare_ties", "della", "della_linear")
_MODEL_KEYS = ("base_model", "model", "path", "source", "tokenizer_source")


def merge(job: MergeJob, report: Report, device: str = "auto") -> MergeResult:
    """Merge with mergekit, complete the checkpoint and verify it; see `Merger`.

    The caller's global random generators keep their state. A method that draws random numbers is seeded with
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
    from evolve.engines.merging import _companions, _mergekit
    from evolve.engines.quiet import quiet_transformers

    configuration = _mergekit.parse(job.recipe)
    _check_folders(job, configuration.folders)
    seed = seed_of(job.recipe) if configuration.merge_method in _RANDOM_METHODS else None
    models = list(dict.fromkeys([*job.parents, *configuration.folders]))
    donor, aligned = configuration.folders[0], configuration.aligns_tokens  # mergekit changes its configuration
    with quiet_transformers(), preserved_generators():
        with failures(f"mergekit could not merge {' and '.join(path.name for path in job.parents)}"):
            _mergekit.run(configuration, job, device=device_name(device), seed=seed, report=report)
        with failures("the merged checkpoint cannot be completed"):
            _companions.complete(job, donor=donor, aligned=aligned, seed=seed)
        with failures("the merged checkpoint is unusable"):
            files = _verified(job, models, report)
    return MergeResult(sum(size for size, _ in files.values()), time.monotonic() - started, files)


def seed_of(recipe: str) -> int:
    """Return the seed, 0..2**32-1, of a recipe with a random method.

    It is a hash of the recipe's content, with each model replaced by the order of its appearance. So a run makes the
    same child wherever its folders are.
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

    canonical = json.dumps(without_paths(parse_recipe(recipe)), sort_keys=True)
    return int(hashlib.sha256(canonical.encode()).hexdigest()[:8], 16)


def _check_folders(job: MergeJob, folders: Sequence[Path]) -> None:
    check_absolute(folders)
    for parent in job.parents:
        if parent not in folders:
            raise MergeError(f"the recipe does not refer to the parent {parent}")
    if not job.output.is_dir() or any(job.output.iterdir()):
        raise MergeError(f"the output folder {job.output} does not exist or is not empty")


def _verified(job: MergeJob, models: Sequence[Path], report: Report) -> dict[str, tuple[int, str]]:
    """Verify the child; return the size and SHA-256 of each of its files."""
    try:
        return verify(job.output, trust_remote_code=job.trust_remote_code, report=report)
    except NotFiniteError as error:
        raise MergeError(blame(error.tensor, models)) from error


def blame(bad: str, models: Sequence[Path]) -> str:
    """Return whether a model held the bad numbers or the merge overflowed, as a message."""
    for folder in models:
        if (name := first_bad_tensor(folder)) is not None:
            return f"{folder} holds numbers that are not finite, first in {name}; they make {bad} of the child unusable"
    return (
        f"the merge made numbers that are not finite in {bad}, while all its models are finite: check the numbers in "
        "the recipe, or try a wider dtype"
    )
