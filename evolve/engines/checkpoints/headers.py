"""The headers of safetensors files: names, types, shapes and places of tensors, without their data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

from evolve.errors import ModelError

__all__ = ["ITEM_BYTES", "TORCH_NAMES", "TensorInfo", "item_bytes", "read_tensors"]

_BY_SIZE = {
    8: ("F64", "C64", "I64", "U64"),
    4: ("F32", "I32", "U32"),
    2: ("F16", "BF16", "I16", "U16"),
    1: ("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL"),
}

ITEM_BYTES: Mapping[str, int] = MappingProxyType({name: size for size, names in _BY_SIZE.items() for name in names})
"""Size in bytes of one number, by safetensors' name of its type."""

TORCH_NAMES: Mapping[str, str] = MappingProxyType(
    {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
)
"""torch's names of the types that weights are merged and measured in, by safetensors' names."""

_MAX_HEADER = 100_000_000  # bytes; the safetensors library's own limit


@dataclass(frozen=True)
class TensorInfo:
    """The location of a tensor.

    Attributes:
        name: Its name.
        file: Name of its file in the checkpoint folder.
        dtype: safetensors' name of its type, such as `BF16`.
        shape: Its shape; empty for a scalar.
        offset: Position of its first byte in the file; its elements follow in row-major order.
        size: Its length in bytes.
    """

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int

    @property
    def elements(self) -> int:
        """Number of its scalars."""
        return prod(self.shape)

    @property
    def rows(self) -> int:
        """Its first dimension; 1 for a scalar."""
        return self.shape[0] if self.shape else 1


def item_bytes(torch_name: str) -> int:
    """Return the size in bytes of one number of a type of `TORCH_NAMES`, by torch's name, such as `bfloat16`."""
    return next(ITEM_BYTES[name] for name, known in TORCH_NAMES.items() if known == torch_name)


def read_tensors(path: Path) -> dict[str, TensorInfo]:
    """Return the tensors of one safetensors file, and check that its length is what its header describes.

    Raises:
        ModelError: The file is cut off, damaged, or not a safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if head == b"version ":
            raise ModelError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in its folder")
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > min(size - 8, _MAX_HEADER):
            raise ModelError(f"{path} is cut off or not a safetensors file ({size} bytes): download it again")
        raw = file.read(length)
    try:
        entries = json.loads(raw)
        entries.pop("__metadata__", None)
        tensors = {name: _tensor(name, path.name, entry, 8 + length) for name, entry in entries.items()}
        expected = _end(tensors, 8 + length)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{path} has a damaged safetensors header ({error}): download it again") from error
    if size != expected:
        state = "cut off" if size < expected else "too long"
        raise ModelError(f"{path} is {state}: {size} bytes, but its header describes {expected}; download it again")
    return tensors


def _tensor(name: str, file: str, entry: Mapping[str, Any], start: int) -> TensorInfo:
    first, last = entry["data_offsets"]
    info = TensorInfo(name, file, str(entry["dtype"]), tuple(map(int, entry["shape"])), start + first, last - first)
    if info.dtype not in ITEM_BYTES:
        raise ValueError(f"the type {info.dtype} is unknown")
    if not 0 <= first <= last or info.size != info.elements * ITEM_BYTES[info.dtype]:
        raise ValueError(f"{name} does not fit its place")
    return info


def _end(tensors: Mapping[str, TensorInfo], start: int) -> int:
    """Return the position after the last tensor; the tensors must follow each other without gaps."""
    for info in sorted(tensors.values(), key=lambda info: (info.offset, info.size)):
        if info.offset != start:
            raise ValueError(f"{info.name} does not begin where the tensor before it ends")
        start += info.size
    return start
