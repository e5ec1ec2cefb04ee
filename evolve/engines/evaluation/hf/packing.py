"""Lays out the rows of a batch: token ids, positions, what each token sees, and which outputs are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evolve.engines.evaluation.hf.plan import Batch, TokenRequest, common_length

__all__ = ["PackedBatch", "pack"]


@dataclass(frozen=True)
class PackedBatch:
    """The rows of a batch, padded on the right to one width.

    Attributes:
        tokens: Token ids, `[rows, width]`.
        positions: Position of each token in its request, `[rows, width]`.
        ends: For each token the end of the columns that see it: those of the tokens that follow it in a request. A
            token sees itself and each token before it whose columns have not ended; `[rows, width]`.
        slots: Where the outputs of each request are read, as indices into the flat batch; by the request's number.
    """

    tokens: list[list[int]]
    positions: list[list[int]]
    ends: list[list[int]]
    slots: Mapping[int, Sequence[int]]


@dataclass
class _PackedRow:
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def add(self, tokens: Sequence[int], start: int) -> list[int]:
        """Append tokens from a position on; return their columns."""
        columns = list(range(len(self.tokens), len(self.tokens) + len(tokens)))
        self.tokens += tokens
        self.positions += range(start, start + len(tokens))
        self.ends += [0] * len(tokens)
        return columns

    def close(self, columns: Sequence[int]) -> None:
        """End the columns that see these tokens here."""
        for column in columns:
            self.ends[column] = len(self.tokens)

    def pad(self, width: int) -> None:
        """Append tokens that only see themselves."""
        for column in range(len(self.tokens), width):
            self.tokens.append(0)
            self.positions.append(0)
            self.ends.append(column + 1)


def pack(batch: Batch, requests: Sequence[TokenRequest]) -> PackedBatch:
    """Lay out a batch of these requests, without its prefix."""
    depth = 0 if batch.prefix is None else len(batch.prefix.tokens)
    width = max(row.length for row in batch.rows)
    slots: dict[int, list[int]] = {}
    packed: list[_PackedRow] = []
    for row in batch.rows:
        here = _PackedRow()
        before: tuple[int, ...] = ()
        path: list[int] = []
        for number in row.requests:
            tokens = requests[number].tokens
            kept = common_length(before, tokens[depth:])
            here.close(path[kept:])
            path = path[:kept] + here.add(tokens[depth + kept :], depth + kept)
            slots[number] = [len(packed) * width + column for column in path[requests[number].first_read - depth :]]
            before = tokens[depth:]
        here.close(path)
        here.pad(width)
        packed.append(here)
    return PackedBatch(
        [row.tokens for row in packed], [row.positions for row in packed], [row.ends for row in packed], slots
    )
