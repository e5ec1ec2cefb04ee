"""The headers of safetensors files: names, types, shapes and places of tensors, without their data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from operator import mul
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

from evolve.errors import ModelError
from evolve.files import open_regular, parse_json, shown

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
_MOST = 2**64 - 1  # of a size in bits


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

    Every file that is accepted is accepted by the safetensors library. The library accepts more in four cases: a key
    that is there twice, types smaller than a byte, whitespace before the header, and an array or a mapping in place of
    a tensor's mapping or of its type.

    Raises:
        ModelError: The file is cut off, damaged, or not a safetensors file.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(8)
            if head == b"version ":
                raise ModelError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in its folder")
            length = int.from_bytes(head, "little")
            if len(head) < 8 or length > min(size - 8, _MAX_HEADER):
                raise ModelError(f"{path} is cut off or not a safetensors file ({size} bytes): download it again")
            raw = file.read(length)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}): download the model again") from error
    try:
        tensors = _parse_header(raw, path.name)
        expected = _end(tensors, 8 + length)
    except ValueError as error:
        raise ModelError(f"{path} has a damaged safetensors header ({error}): download it again") from error
    if size != expected:
        state = "cut off" if size < expected else "too long"
        raise ModelError(f"{path} is {state}: {size} bytes, but its header describes {expected}; download it again")
    return tensors


def _parse_header(raw: bytes, file: str) -> dict[str, TensorInfo]:
    if not raw.startswith(b"{"):
        raise ValueError("it does not begin with {")
    entries = parse_json(raw, unique=True, finite=True)
    metadata = entries.pop("__metadata__", None)
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    ):
        raise ValueError("its __metadata__ is not a mapping of strings")
    return {name: _tensor(name, file, entry, 8 + len(raw)) for name, entry in entries.items()}


def _tensor(name: str, file: str, entry: Any, start: int) -> TensorInfo:
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ValueError(f"{shown(name)} has the unknown type {shown(dtype)}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{shown(name)} has no valid shape or place")
    bits = list(accumulate([1, *shape, 8 * ITEM_BYTES[dtype]], mul))  # the library refuses any step that overflows
    if max(bits) > _MOST or bits[-1] != 8 * (offsets[1] - offsets[0]):
        raise ValueError(f"{shown(name)} does not fit its place")
    return TensorInfo(name, file, dtype, tuple(shape), start + offsets[0], offsets[1] - offsets[0])


def _are_sizes(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= _MOST for value in values)


def _end(tensors: Mapping[str, TensorInfo], start: int) -> int:
    """Return the position after the last tensor; the tensors must follow each other without gaps."""
    for info in sorted(tensors.values(), key=lambda info: (info.offset, info.size)):
        if info.offset != start:
            raise ValueError(f"{shown(info.name)} does not begin where the tensor before it ends")
        start += info.size
    return start
