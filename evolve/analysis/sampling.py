"""The score of a child from a part of its items, sampled by its parents' answers.

The items of a task are grouped into cells by the answers of the two parents, and each cell is sampled at random without
replacement. Cells in which the parents disagree are sampled more. The estimate is the augmented inverse-probability
estimator: the mean over all items of the prediction (the mean of the parents' values), plus the mean of each cell's
sampled residuals with the weight of the cell. It is unbiased for the score on all items whatever the child answers,
because the probability of each item depends on the parents alone; at a share of 1 it is the score itself.

The standard error is that of the sampling: how far the estimate lies from the score on all items. lm-eval's standard
error of a score is another one: how far that score lies from the score on other items of the same kind.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["ItemEstimate", "ItemSample"]

Values = Mapping[int, float]
FLOOR = 0.5
"""Share of the sampling rate that does not depend on the parents: an item on which they agree is sampled at the rate
FLOOR / (FLOOR + 1) of one on which they disagree completely."""
_LEVELS = 3
_FEWEST = 2  # answered items of a cell
_WEIGHT = 1.0  # how many observations the expected variance of a cell counts for
_UNKNOWN = -1


@dataclass(frozen=True)
class ItemEstimate:
    """The estimated mean of an item value over all items of a task.

    Attributes:
        value: The estimate; the mean itself if all items were answered.
        stderr: Standard error of the sampling; 0 if all items were answered.
        answered: Number of answered items.
        items: Number of all items.
    """

    value: float
    stderr: float
    answered: int
    items: int


@dataclass(frozen=True)
class _Cell:
    """Items with the same pair of levels of the parents' values.

    Attributes:
        items: In the order in which they are sampled.
        disagreement: Mean difference of the parents' values (0..1 of their range).
    """

    items: tuple[int, ...]
    disagreement: float

    @property
    def rate(self) -> float:
        """Sampling rate relative to other cells."""
        return FLOOR + self.disagreement


class ItemSample:
    """The items of one task that a child answers, for every share of them; samples of larger shares contain smaller.

    Args:
        items: Ids of all items.
        parents: Values of the items that each parent has answered, by id.
        key: Seed of the order of the items; a child and a task have a key of their own.
    """

    def __init__(self, items: Sequence[int], parents: tuple[Values, Values], key: str) -> None:
        self._count = len(items)
        known = [value for parent in parents for item, value in parent.items()]
        low, high = min(known, default=0.0), max(known, default=0.0)
        middle = math.fsum(known) / len(known) if known else 0.0
        self._scale = high - low
        groups: dict[tuple[int, int], list[int]] = {}
        self._predicted: dict[int, float] = {}
        for item in items:
            values = [parent.get(item) for parent in parents]
            answered = [value for value in values if value is not None] or [middle]
            self._predicted[item] = math.fsum(answered) / len(answered)
            first, second = (_level(value, low, high) for value in values)
            groups.setdefault((first, second), []).append(item)
        typical = _disagreement([item for item in items if item in parents[0] and item in parents[1]], parents, 1.0)
        self._cells = tuple(
            _Cell(
                tuple(sorted(group, key=lambda item: _order(key, item))),
                typical / (self._scale or 1.0)
                if _UNKNOWN in levels
                else _disagreement(group, parents, self._scale or 1.0),
            )
            for levels, group in sorted(groups.items())
        )

    def chosen(self, share: float) -> tuple[int, ...]:
        """Return the ids of the items to answer for a share of all items (0..1), ascending."""
        sizes = self._sizes(share)
        return tuple(sorted(item for cell, size in zip(self._cells, sizes, strict=True) for item in cell.items[:size]))

    def estimate(self, share: float, values: Values) -> ItemEstimate:
        """Return the estimate from the child's values of the items of `chosen(share)`.

        Raises:
            KeyError: The value of an item is missing.
        """
        sizes = self._sizes(share)
        answered = sum(sizes)
        if answered == self._count:
            mean = math.fsum(values[item] for item in self._predicted) / self._count
            return ItemEstimate(mean, 0.0, answered, self._count)
        total = math.fsum(self._predicted.values())
        variance = 0.0
        for cell, size in zip(self._cells, sizes, strict=True):
            residuals = [values[item] - self._predicted[item] for item in cell.items[:size]]
            count = len(cell.items)
            mean = math.fsum(residuals) / size
            total += count * mean
            variance += count**2 * (1 - size / count) * self._variance(cell, residuals, mean) / size
        return ItemEstimate(total / self._count, math.sqrt(variance) / self._count, answered, self._count)

    def _variance(self, cell: _Cell, residuals: list[float], mean: float) -> float:
        expected = self._expected(cell)
        squares = math.fsum((residual - mean) ** 2 for residual in residuals)
        return (squares + _WEIGHT * expected) / (len(residuals) - 1 + _WEIGHT)

    def _expected(self, cell: _Cell) -> float:
        return (0.25 * self._scale**2) * (0.2 + 0.8 * cell.disagreement)

    def _sizes(self, share: float) -> list[int]:
        """Return how many items of each cell are answered; for a larger share it is never fewer."""
        scale = _rate_scale(self._cells, share * self._count)
        sizes: list[int] = []
        for cell in self._cells:
            count = len(cell.items)
            wanted = math.floor(count * min(1.0, scale * cell.rate) + 0.5)
            sizes.append(min(count, max(wanted, _FEWEST)))
        return sizes


def _rate_scale(cells: Sequence[_Cell], wanted: float) -> float:
    """Return the factor of the cells' rates, capped at 1, with which so many items are expected."""
    open_cells = sorted(cells, key=lambda cell: -cell.rate)
    left = wanted
    while open_cells:
        scale = left / math.fsum(len(cell.items) * cell.rate for cell in open_cells)
        if scale * open_cells[0].rate <= 1:
            return scale
        left -= len(open_cells.pop(0).items)
    return math.inf


def _disagreement(items: Sequence[int], parents: tuple[Values, Values], scale: float) -> float:
    if not items:
        return scale
    return math.fsum(abs(parents[0][item] - parents[1][item]) for item in items) / (len(items) * scale)


def _level(value: float | None, low: float, high: float) -> int:
    if value is None:
        return _UNKNOWN
    return min(_LEVELS - 1, int(_LEVELS * (value - low) / (high - low))) if high > low else 0


def _order(key: str, item: int) -> bytes:
    """Return a permanent random number of an item; no generator has a part in it."""
    return hashlib.sha256(f"{key}\0{item}".encode()).digest()
