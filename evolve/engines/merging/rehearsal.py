"""The rehearsal of a merge: the first and the last layer, and all that is outside the layers, are merged in memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evolve.engines.devices import device_name
from evolve.engines.generators import preserved_generators
from evolve.engines.merging._failures import check_absolute, failures
from evolve.engines.merging.merger import blame
from evolve.engines.protocols import RehearseMergeJob, Report
from evolve.errors import MergeError, RecipeError

if TYPE_CHECKING:
    from evolve.engines.merging._mergekit import Configuration

__all__ = ["rehearse_merge"]

_LAYER = re.compile(r"\.(\d+)\.")


def rehearse_merge(job: RehearseMergeJob, report: Report, device: str = "auto") -> None:
    """Merge a part of two models in memory, by mergekit's own tasks; see `MergeRehearser`.

    A merge on shapes, as in `plan_merges`, does no arithmetic. This one finds parameters with which the arithmetic
    fails or makes numbers that are not finite, such as `t: .nan`, and a type of the child that holds no fractions.

    Raises:
        RecipeError: mergekit cannot carry out the merge, or a tensor of the child is unusable.
        torch.OutOfMemoryError: The device is too small.
        OSError: The disk is full.
    """
    from evolve.engines.merging import _mergekit
    from evolve.engines.quiet import quiet_transformers

    configuration = _mergekit.parse(job.recipe)
    folders = configuration.folders
    words = f"mergekit cannot merge {' and '.join(folder.name for folder in folders)} by this recipe"
    try:
        check_absolute(folders)
        with quiet_transformers(), preserved_generators(), failures(words):
            bad = _merge_part(configuration, job, report, device_name(device))
    except MergeError as error:
        raise RecipeError(f"merge.recipe = {job.template}: {error}") from error
    if bad is not None:
        raise RecipeError(f"merge.recipe = {job.template}: {blame(bad, folders)}")


def _merge_part(configuration: Configuration, job: RehearseMergeJob, report: Report, device: str) -> str | None:
    """Merge the chosen tensors; return the name of one that is not finite, or None."""
    import torch
    from mergekit.io.tasks import SaveTensor

    from evolve.engines.merging import _mergekit

    with _mergekit.plan(configuration, device=device, trust_remote_code=job.trust_remote_code) as planned:
        saves = _chosen([task for task in planned.tasks if isinstance(task, SaveTensor)])
        for done, (name, tensor) in enumerate(_mergekit.compute(saves, device)):
            report(f"rehearsing recipe {job.template}", done, len(saves))
            if not tensor.is_floating_point() and tensor.dtype not in {torch.bool, torch.uint8}:  # masks of attention
                raise MergeError(f"{name} of the child would have the type {tensor.dtype}: choose a floating type")
            if not bool(torch.isfinite(tensor).all()):
                return name
    return None


def _chosen(saves: Sequence[Any]) -> list[Any]:
    """Return the tasks for the first and the last layer, where gradients begin and end, and for no layer."""
    layers = {save.tensor_name: int(found[1]) for save in saves if (found := _LAYER.search(save.tensor_name))}
    ends = {min(layers.values(), default=0), max(layers.values(), default=0)}
    return [save for save in saves if save.tensor_name not in layers or layers[save.tensor_name] in ends]
