"""Pickled weights (`pytorch_model*.bin`): checked without opening them, and converted to safetensors.

Opening a pickle can run code. Only torch opens them here, in a worker, in the mode that accepts nothing but tensors.
"""

from __future__ import annotations

import json
import pickle
import shutil
import struct
import time
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from evolve.engines.checkpoints import (
    Layout,
    NotFiniteError,
    companions,
    is_head,
    is_pickled,
    manifest,
    read_config,
    read_index,
)
from evolve.engines.checkpoints.files import INDEX, PICKLED, PICKLED_INDEX, SINGLE
from evolve.engines.protocols import ConversionJob, MergeResult, Report
from evolve.errors import ModelError

__all__ = ["convert", "pickled_files", "pickled_layout"]


def pickled_files(folder: Path) -> list[str]:
    """Return the names of the files of the pickled weights of a folder, the index included, sorted.

    Raises:
        ModelError: A file is missing, cut off or damaged.
    """
    shards = _shards(folder)
    for shard in shards:
        _check_file(folder / shard)
    return sorted(shards if (folder / PICKLED).is_file() else {*shards, PICKLED_INDEX})


def pickled_layout(folder: Path) -> Layout:
    """Return the layout of a checkpoint with pickled weights, without its tensors; the weights are not opened.

    Raises:
        ModelError: config.json or a weight file is missing or damaged.
    """
    config = read_config(folder)
    return Layout(folder, config, {}, {name: (folder / name).stat().st_size for name in pickled_files(folder)})


def convert(job: ConversionJob, report: Report) -> MergeResult:
    """Write pickled weights as safetensors, shard by shard, and copy the other files of the model.

    Every tensor keeps its name, type and numbers. Output embeddings that share the memory of the input embeddings are
    left out if the configuration ties them, as transformers does. Other tensors that share memory get a copy each.

    Raises:
        ModelError: The weights are damaged or not finite, or the file holds objects other than tensors.
        MemoryError: A shard does not fit into main memory.
    """
    started = time.monotonic()
    layout = pickled_layout(job.model)
    _convert(job, layout, report)
    for path in companions(job.model):
        target = job.output / path.relative_to(job.model)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    try:
        files = manifest(job.output, report)
    except NotFiniteError as error:
        raise ModelError(
            f"{job.model} holds numbers that are not finite, first in {error.tensor}: give another model"
        ) from error
    return MergeResult(sum(size for size, _ in files.values()), time.monotonic() - started, files)


# --------------------------------------------------------------------------------------------------------- checks


def _shards(folder: Path) -> dict[str, frozenset[str] | None]:
    """Return the weight files, sorted, each with the names of its tensors that count; None: all."""
    if not is_pickled(folder):
        raise ModelError(f"{folder} has no pickled weights: expected {PICKLED}, or {PICKLED_INDEX} and its shards")
    if (folder / PICKLED).is_file():
        return {PICKLED: None}
    found: dict[str, set[str]] = {}
    for name, shard in read_index(folder / PICKLED_INDEX).items():
        found.setdefault(shard, set()).add(name)
    return {shard: frozenset(found[shard]) for shard in sorted(found)}


def _check_file(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(8)
    if head == b"version ":
        raise ModelError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in its folder")
    if not head or (head.startswith(b"PK") and not _is_archive(path)):
        raise ModelError(f"{path} is cut off ({path.stat().st_size} bytes): download it again")


def _is_archive(path: Path) -> bool:
    """Return whether a file is a complete zip archive, as torch writes since 1.6; its directory is at its end."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


# ------------------------------------------------------------------------------------------------------ conversion


def _convert(job: ConversionJob, layout: Layout, report: Report) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    shards = _shards(job.model)
    places: dict[str, str] = {}
    size = 0
    for number, (shard, wanted) in enumerate(shards.items(), start=1):
        report("converting pickled weights", number - 1, len(shards))
        name = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = _separate(_read(job.model / shard, wanted), layout)
        try:
            save_file(tensors, job.output / name, metadata={"format": "pt"})
        except (SafetensorError, ValueError, KeyError) as error:
            raise ModelError(f"{job.model / shard} cannot be written as safetensors: {_words(error)}") from error
        places |= dict.fromkeys(tensors, name)
        size += sum(tensor.nbytes for tensor in tensors.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
        (job.output / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _read(path: Path, wanted: Collection[str] | None) -> dict[str, Any]:
    """Return the tensors of one file by name."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about forms of pickles that torch does not write
            # weights_only refuses everything but tensors and plain containers of them.
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_archive(path))
    except (
        *(AttributeError, AssertionError, EOFError, ImportError, LookupError, RuntimeError, TypeError, ValueError),
        *(pickle.UnpicklingError, struct.error),
    ) as error:
        raise ModelError(
            f"{path} is damaged, or holds more than tensors and is not opened ({_words(error)}): download it "
            "again, or convert it yourself if you trust it"
        ) from error
    if not isinstance(found, Mapping) or not found:
        raise ModelError(f"{path} holds no tensors by name: give the folder that save_pretrained wrote")
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            raise ModelError(
                f"{path} holds {name!r}, which is not a plain tensor: give the folder of a model's weights"
            )
    missing = sorted(set(wanted or ()) - set(found))
    if missing:
        raise ModelError(f"{path} does not hold {missing[0]}, which its index puts there: download the model again")
    return {name: tensor.detach() for name, tensor in found.items() if wanted is None or name in wanted}


def _separate(tensors: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """Return the same tensors without shared memory, as safetensors requires."""
    import torch

    by_place: dict[tuple[Any, ...], int] = {}
    for tensor in tensors.values():
        by_place[_place(tensor)] = by_place.get(_place(tensor), 0) + 1
    seen: set[int] = set()
    result: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if is_head(name) and layout.ties_by_setting and by_place[_place(tensor)] > 1:
            continue
        storage = tensor.untyped_storage()
        whole = tensor.is_contiguous() and storage.nbytes() == tensor.nbytes and storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        result[name] = tensor if whole else tensor.clone(memory_format=torch.contiguous_format)
    return result


def _place(tensor: Any) -> tuple[Any, ...]:
    """Return a value that is equal for two names of the same tensor."""
    return (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tuple(tensor.stride()))


def _words(error: Exception) -> str:
    """Return the first sentence of an error message."""
    return " ".join(str(error).split()).partition(". ")[0] or type(error).__name__
