"""Stream the pieces of a plan from their files; the next chunk is read while the last one is processed.

Files are read, not mapped into memory. So the use of memory is known, a file that shrinks gives an error instead of a
signal, and scattered rows of an embedding cost no more than their own bytes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from evolve.engines.checkpoints import ITEM_BYTES, TORCH_NAMES
from evolve.engines.kinship.plan import Piece, Place, Rows
from evolve.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Chunk", "read_place", "stream"]

_READERS = 4
_AHEAD = 2  # chunks in memory: one being processed and one being read


@dataclass(frozen=True)
class Chunk:
    """Some rows of a piece, in memory until the next chunk is requested.

    Attributes:
        piece: The piece they are part of.
        base: The base's elements, flat, in the type of its file.
        models: The models' elements, in the same order, each in the type of its file.
        bytes: Number of bytes read for it.
    """

    piece: Piece
    base: Tensor
    models: Mapping[str, Tensor]
    bytes: int


def stream(pieces: Sequence[Piece], limit: int, *, pinned: bool) -> Generator[Chunk]:
    """Read all pieces once, in chunks of at most `limit` elements (but at least one row).

    Args:
        pieces: What to read.
        limit: Elements of one model in a chunk.
        pinned: Whether to read into page-locked memory, from which a GPU copies faster.

    Raises:
        ModelError: A file is shorter than its header says, or cannot be read.
    """
    sizes = _buffer_bytes(pieces, limit)
    free = [_buffers(sizes, pinned=pinned) for _ in range(_AHEAD)]
    waiting: deque[tuple[Piece, int, dict[str, Tensor], list[Future[None]]]] = deque()
    with ThreadPoolExecutor(_READERS) as pool:
        try:
            for piece, start, stop in _cuts(pieces, limit):
                if not free:
                    yield _finish(waiting[0])
                    free.append(waiting.popleft()[2])
                buffers = free.pop()
                jobs = [
                    pool.submit(read_place, place, start, stop, piece.width, buffers[name].numpy())
                    for name, place in _places(piece)
                ]
                waiting.append((piece, stop - start, buffers, jobs))
            while waiting:
                yield _finish(waiting.popleft())
        finally:
            for *_, jobs in waiting:
                for job in jobs:
                    job.cancel()


def read_place(place: Place, start: int, stop: int, width: int, buffer: np.ndarray) -> None:
    """Read rows `start` to `stop` of a piece into the front of a buffer of bytes."""
    row_bytes = width * ITEM_BYTES[place.dtype]
    view, filled = buffer.data, 0
    try:
        with place.path.open("rb", buffering=0) as file:
            for first, count in _runs(place.rows, start, stop):
                size = count * row_bytes
                _read(file.fileno(), view[filled : filled + size], place.offset + first * row_bytes)
                filled += size
    except OSError as error:
        raise ModelError(f"{place.path} cannot be read: {error}") from error


def _read(descriptor: int, view: memoryview, position: int) -> None:
    while view:
        count = os.preadv(descriptor, [view], position)
        if not count:
            raise OSError("it ends before its last tensor; it may have changed during the measurement")
        view, position = view[count:], position + count


def _runs(rows: Rows | None, start: int, stop: int) -> list[tuple[int, int]]:
    """Return rows `start` to `stop` as runs of consecutive rows of the file: first row and number of rows."""
    if rows is None:
        return [(start, stop - start)]
    part = rows[start:stop]
    bounds = [0, *(np.flatnonzero(np.diff(part) != 1) + 1).tolist(), len(part)]
    return [(int(part[i]), j - i) for i, j in pairwise(bounds)]


def _cuts(pieces: Sequence[Piece], limit: int) -> Iterator[tuple[Piece, int, int]]:
    for piece in pieces:
        step = max(1, limit // piece.width)
        for start in range(0, piece.count, step):
            yield piece, start, min(start + step, piece.count)


def _places(piece: Piece) -> list[tuple[str, Place]]:
    """Return base and models of a piece; the base has a name that no model can have."""
    return [("", piece.base), *piece.models.items()]


def _buffer_bytes(pieces: Sequence[Piece], limit: int) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for piece in pieces:
        elements = min(piece.count, max(1, limit // piece.width)) * piece.width
        for name, place in _places(piece):
            sizes[name] = max(sizes.get(name, 0), elements * ITEM_BYTES[place.dtype])
    return sizes


def _buffers(sizes: Mapping[str, int], *, pinned: bool) -> dict[str, Tensor]:
    import torch

    return {name: torch.empty(size, dtype=torch.uint8, pin_memory=pinned) for name, size in sizes.items()}


def _finish(entry: tuple[Piece, int, dict[str, Tensor], list[Future[None]]]) -> Chunk:
    """Wait until a chunk is read, and return its bytes in their types."""
    import torch

    piece, rows, buffers, jobs = entry
    for job in jobs:
        job.result()
    tensors, size = {}, 0
    for name, place in _places(piece):
        used = rows * piece.width * ITEM_BYTES[place.dtype]
        tensors[name] = buffers[name][:used].view(getattr(torch, TORCH_NAMES[place.dtype]))
        size += used
    return Chunk(piece, tensors.pop(""), tensors, size)
