"""Plans forward passes over the trie of the requests' token ids, so that common beginnings are computed once.

A pass computes *rows*. A row holds the tokens of neighbouring requests as a tree: what they have in common stands in it
once. Rows that begin alike, such as all items after the primer of a task, stand on a *prefix*, whose keys and values
are computed once. The plan depends on the token ids and the batch size alone.

Keys and values for each context, repeated for its choices, were the other way: on TruthfulQA with a 135M model they
took 2.9 times the time of packed rows, on Winogrande 1.1 times (`benchmarks/README.md`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

__all__ = ["Batch", "Prefix", "Row", "TokenRequest", "common_length", "plan_batches"]

_ROW = 2
"""Most tokens of a row, in lengths of the longest request; attention grows with the square of a row."""

_REPEATED = 8
"""A row is divided if its parts then repeat at most this fraction (1 in 8) of its tokens: short rows pad less."""

_FILLED = 4
"""A batch with this fraction (1 in 4) of its budget takes no row of which more than this fraction would be padding."""

_COLUMNS = 4
"""Most keys of a batch, those of the prefix counted for each row, in token budgets."""


@dataclass(frozen=True)
class TokenRequest:
    """One request: the tokens that the model reads, and the tokens whose log-likelihood its last outputs give."""

    tokens: tuple[int, ...]
    targets: tuple[int, ...]

    @property
    def first_read(self) -> int:
        """Position of the first output that is read."""
        return len(self.tokens) - len(self.targets)


@dataclass(frozen=True, eq=False)
class Prefix:
    """Tokens with which all rows of some batches begin; those of its parent are their beginning."""

    parent: Prefix | None
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """Requests that share a row, by their numbers, in the order of their tokens; `length` is without the prefix."""

    requests: tuple[int, ...]
    length: int


@dataclass(frozen=True)
class Batch:
    """Rows of one forward pass."""

    prefix: Prefix | None
    rows: tuple[Row, ...]


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two sequences begin with in common."""
    for count, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return count
    return min(len(one), len(other))


def plan_batches(requests: Sequence[TokenRequest], batch_size: int) -> list[Batch]:
    """Return the batches that answer all requests.

    A batch has at most `batch_size` times the tokens of the longest request, as a padded batch of plain requests.
    """
    if not requests:
        return []
    longest = max(len(request.tokens) for request in requests)
    budget = batch_size * longest
    rows: dict[Prefix | None, list[Row]] = {}
    for prefix, row in _rows(requests, min(budget, _ROW * longest), max(budget // 4, 1)):
        rows.setdefault(prefix, []).append(row)
    return [batch for prefix, found in rows.items() for batch in _batches(prefix, found, budget)]


def _rows(requests: Sequence[TokenRequest], most: int, least_saving: int) -> Iterator[tuple[Prefix | None, Row]]:
    """Cut the trie into rows of at most `most` tokens, each with its prefix.

    A common beginning becomes a prefix where this saves `least_saving` tokens. Otherwise the rows repeat it: a pass for
    a short prefix, and batches that are not full, cost more than a few tokens.
    """
    order, common = _sorted(requests)
    lengths = np.array([len(requests[number].tokens) for number in order])
    reads = np.array([requests[number].first_read for number in order])
    stack: list[tuple[int, int, Prefix | None]] = [(0, len(order), None)]
    while stack:
        start, end, prefix = stack.pop()
        depth = 0 if prefix is None else len(prefix.tokens)
        inner = common[start + 1 : end]
        size = int(lengths[start] - depth + (lengths[start + 1 : end] - inner).sum())
        branching = int(inner.min()) if len(inner) else 0
        cuts = [start, *(start + 1 + np.flatnonzero(inner == branching)).tolist(), end]
        repeated = (branching - depth) * (len(cuts) - 2)
        if len(inner) == 0 or (size <= most and repeated * _REPEATED > size):
            yield prefix, Row(tuple(order[start:end]), size)
            continue
        # The first output that is read must come from a row.
        shared = min(branching, int(reads[start:end].min()))
        if (shared - depth) * (max(len(cuts) - 1, -(-size // most)) - 1) >= least_saving:
            prefix = Prefix(prefix, requests[order[start]].tokens[:shared])
        stack.extend((*bounds, prefix) for bounds in reversed(list(pairwise(cuts))))


def _sorted(requests: Sequence[TokenRequest]) -> tuple[list[int], Any]:
    """Return the numbers of the requests ordered by their tokens, and how many tokens each shares with the one before.

    Equal requests keep their order.
    """
    arrays = [np.array(request.tokens, dtype=">u4") for request in requests]
    order = sorted(range(len(requests)), key=[array.tobytes() for array in arrays].__getitem__)
    common = [0]
    for before, after in pairwise(order):
        one, other = arrays[before], arrays[after]
        shorter = min(len(one), len(other))
        differ = np.flatnonzero(one[:shorter] != other[:shorter])
        common.append(int(differ[0]) if len(differ) else shorter)
    return order, np.array(common)


def _batches(prefix: Prefix | None, rows: Sequence[Row], budget: int) -> Iterator[Batch]:
    """Batch the rows of one prefix, the longest first, so that little is padded and memory runs out early."""
    before = 0 if prefix is None else len(prefix.tokens)
    ordered = sorted(rows, key=lambda row: -row.length)
    start = 0
    while start < len(ordered):
        longest = ordered[start].length
        most = max(1, min(budget // longest, _COLUMNS * budget // (before + longest)))
        enough = -(-budget // (_FILLED * longest))
        count = 1
        while count < min(most, len(ordered) - start) and (
            count < enough or _FILLED * (longest - ordered[start + count].length) <= longest
        ):
            count += 1
        yield Batch(prefix, tuple(ordered[start : start + count]))
        start += count
