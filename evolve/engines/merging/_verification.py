"""Whether a merged checkpoint is fit for use, and what it consists of."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from evolve.engines.checkpoints import differences, read_layout
from evolve.engines.protocols import MergeJob, Report
from evolve.errors import MergeError, ModelError

__all__ = ["first_bad_tensor", "manifest", "verify"]

_HASHERS = 4


def verify(job: MergeJob, models: Sequence[Path], report: Report) -> None:
    """Makes sure that the output of a merge loads, is laid out like parent 1, and holds finite numbers only.

    Args:
        job: The merge.
        models: Folders of all models that took part.
        report: Is told the number of tensors that were read.

    Raises:
        MergeError: It does not; the message names the first tensor at fault, and the parent that brought it.
    """
    try:
        first = read_layout(job.parents[0])
        difference = differences(first, read_layout(job.output))
    except ModelError as error:
        raise MergeError(str(error)) from error
    if difference is not None:
        raise MergeError(f"the merged checkpoint is not laid out like its first parent: {difference}")
    _check_loads(job.output, first.tensors, trust_remote_code=job.trust_remote_code)
    bad = first_bad_tensor(job.output, report)
    if bad is not None:
        raise MergeError(_blame(bad, models))


def manifest(folder: Path, report: Report) -> dict[str, tuple[int, str]]:
    """Size in bytes and SHA-256 of every file of a folder, by name relative to it, sorted by name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {}
    with ThreadPoolExecutor(_HASHERS) as pool:  # hashlib releases the interpreter's lock
        for done, (path, digest) in enumerate(zip(paths, pool.map(_sha256, paths), strict=True), start=1):
            files[path.relative_to(folder).as_posix()] = (path.stat().st_size, digest)
            report("hashing files", done, len(paths))
    return files


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_loads(folder: Path, usual: Collection[str], *, trust_remote_code: bool) -> None:
    """Loads the tokenizer, and the model on torch's meta device: all names and shapes, none of the data.

    Tensors that the model does not know are let pass if they are `usual`: old exports hold constants.
    """
    from mergekit.common import get_auto_cls
    from transformers import AutoConfig, AutoTokenizer

    architecture = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code).architectures[0]
    _, info = get_auto_cls(architecture).from_pretrained(
        folder, device_map="meta", output_loading_info=True, trust_remote_code=trust_remote_code
    )
    for kind, passed in (("missing_keys", ()), ("mismatched_keys", ()), ("unexpected_keys", usual)):
        if names := sorted(str(name) for name in info[kind] if name not in passed):
            raise MergeError(f"the merged checkpoint has {kind.replace('_', ' ')}: {', '.join(names[:3])}")
    AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)


def _tensors(folder: Path) -> Iterator[tuple[int, str, Any]]:
    """Number of tensors, and name and data of each, in the order of the files."""
    from safetensors import safe_open

    layout = read_layout(folder)
    for file in layout.files:
        with safe_open(folder / file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no mapping
                yield len(layout.tensors), name, opened.get_tensor(name)


def _is_finite(tensor: Any) -> bool:
    """Whether all elements are finite. Extremes carry NaN and infinity on, and are much faster than `isfinite`."""
    import torch

    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor))


def first_bad_tensor(folder: Path, report: Report | None = None) -> str | None:
    """Name of the first tensor of a checkpoint that holds a number that is not finite; None where all are."""
    for done, (total, name, tensor) in enumerate(_tensors(folder), start=1):
        if not _is_finite(tensor):
            return name
        if report is not None:
            report("verifying tensors", done, total)
    return None


def _blame(bad: str, models: Sequence[Path]) -> str:
    """Tells a merge that went wrong from one that was given bad numbers."""
    for folder in models:
        if (name := first_bad_tensor(folder)) is not None:
            spoilt = f"and spoils {bad} of the child: leave it out"
            return f"{folder} holds numbers that are not finite, first in {name}, {spoilt}"
    return f"the merge made numbers that are not finite in {bad}, while all its models are finite: try a wider dtype"
