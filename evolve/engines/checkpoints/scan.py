"""One pass over a weight file: its SHA-256, and whether all its numbers are finite.

The bit patterns of floating numbers are ordered like integers. NaN and the infinities have the largest patterns of
either sign, so the maximum of a chunk, read as signed and as unsigned integers, tells whether it holds one of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from evolve.engines.checkpoints.headers import TensorInfo, read_tensors
from evolve.errors import ModelError

__all__ = ["scan"]

Bytes = npt.NDArray[np.uint8]

_CHUNK = 1 << 20  # bytes; stays in a processor's cache between the hash and the check

_SIGNED: dict[str, tuple[type[np.signedinteger], type[np.unsignedinteger], int]] = {
    "F64": (np.int64, np.uint64, 0x7FF << 52),
    "F32": (np.int32, np.uint32, 0xFF << 23),
    "C64": (np.int32, np.uint32, 0xFF << 23),
    "F16": (np.int16, np.uint16, 0x1F << 10),
    "BF16": (np.int16, np.uint16, 0xFF << 7),
    "F8_E5M2": (np.int8, np.uint8, 0x1F << 2),
    "F8_E4M3": (np.int8, np.uint8, 0x7F),
}
"""By type: integers of its size, and the smallest pattern of a number without a sign that is not finite."""

_ONE_NAN = {"F8_E8M0": 0xFF, "F8_E4M3FNUZ": 0x80, "F8_E5M2FNUZ": 0x80}
"""Types of which a single pattern is not finite."""


def scan(path: Path, advance: Callable[[int], None], *, hashed: bool = True) -> tuple[str, str | None]:
    """Read a safetensors file once; return its SHA-256 and the name of its first tensor that is not finite.

    Args:
        path: The file.
        advance: Called with the number of bytes done since its last call.
        hashed: Whether the hash is needed. Without it, the pass ends at the first bad tensor and the hash is not valid.

    Raises:
        ModelError: The file is damaged, or cannot be read.
    """
    digest, bad = hashlib.sha256(), None
    tensors = sorted(read_tensors(path).values(), key=lambda info: info.offset)
    try:
        with path.open("rb", buffering=0) as file:
            for info, block in _blocks(file, tensors):
                if hashed:
                    digest.update(block.data)
                if info is not None and bad is None and not _is_finite(block, info.dtype):
                    bad = info.name
                    if not hashed:
                        break
                advance(len(block))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    return digest.hexdigest(), bad


def _blocks(file: BinaryIO, tensors: list[TensorInfo]) -> Iterator[tuple[TensorInfo | None, Bytes]]:
    """Yield the header, then each tensor, in blocks of whole numbers; a block is valid until the next one."""
    buffer = np.empty(_CHUNK, dtype=np.uint8)
    start = tensors[0].offset if tensors else file.seek(0, 2)
    file.seek(0)
    for info, size in [(None, start), *((info, info.size) for info in tensors)]:
        for first in range(0, size, _CHUNK):
            block = buffer[: min(_CHUNK, size - first)]
            _fill(file, block)
            yield info, block


def _fill(file: BinaryIO, block: Bytes) -> None:
    view = block.data
    while view:
        count = file.readinto(view)  # type: ignore[attr-defined]  # a raw file has it
        if not count:
            raise OSError("it ends before its last tensor; it may have changed while it was read")
        view = view[count:]


def _is_finite(block: Bytes, dtype: str) -> bool:
    """Return whether all numbers of a block are finite; those of an integer type are."""
    if dtype in _ONE_NAN:
        return not (block == _ONE_NAN[dtype]).any()
    if dtype not in _SIGNED:
        return True
    signed, unsigned, least = _SIGNED[dtype]
    sign = 1 << (8 * np.dtype(signed).itemsize - 1)
    return bool(block.view(signed).max() < least and block.view(unsigned).max() < sign + least)
