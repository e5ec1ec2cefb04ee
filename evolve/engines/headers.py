"""The headers of safetensors files: what tensors they hold and where, without reading one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from evolve.errors import ModelError

__all__ = ["TensorInfo", "read_tensors"]

_BITS = re.compile(r"(?:BF|F|I|U)(64|32|16|8)(?:_E\dM\d)?")
_MAX_HEADER = 100_000_000  # bytes; the safetensors library's own limit


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies.

    Attributes:
        name: Its name.
        file: Name of its file in the checkpoint folder.
        dtype: safetensors' word for its type, such as `BF16`.
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


def read_tensors(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file, after checking that the file has exactly the length its header needs.

    Raises:
        ModelError: It is cut off, damaged, or no safetensors file.
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
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{path} has a damaged safetensors header ({error}): download it again") from error
    expected = max((info.offset + info.size for info in tensors.values()), default=8 + length)
    if size != expected:
        state = "cut off" if size < expected else "too long"
        raise ModelError(f"{path} is {state}: {size} bytes, but its header describes {expected}; download it again")
    return tensors


def _item_bytes(dtype: str) -> int:
    if dtype == "BOOL":
        return 1
    match = _BITS.fullmatch(dtype)
    if not match:
        raise ValueError(f"the type {dtype} is unknown")
    return int(match[1]) // 8


def _tensor(name: str, file: str, entry: Mapping[str, Any], start: int) -> TensorInfo:
    first, last = entry["data_offsets"]
    info = TensorInfo(name, file, str(entry["dtype"]), tuple(map(int, entry["shape"])), start + first, last - first)
    if not 0 <= first <= last or info.size != info.elements * _item_bytes(info.dtype):
        raise ValueError(f"{name} does not fit its place")
    return info
