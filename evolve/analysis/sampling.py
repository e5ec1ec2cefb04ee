"""The score of a child from a part of its items, sampled by its parents' answers.

The items of a task are grouped into cells by the answers of the two parents, and each cell is sampled at random without
replacement. Cells in which the parents disagree are sampled more. The estimate is the augmented inverse-probability
estimator (AIPW): the mean over all items of the prediction, which is the mean of the parents' values, plus the mean of
the residuals of the sampled items, each divided by its probability. It is unbiased for the score on all items whatever
the child answers, because the probabilities depend on the parents alone; at a share of 1 it is the score itself.

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

_EVEN = 0.75  # share of a sample that is spread evenly over all items; the rest goes by the parents' disagreement
_LEVELS = 3  # of the values of a parent
_UNKNOWN = -1  # level of an item that a parent has not answered
_FEWEST = 2  # sampled items of a cell, so that it has a variance


@dataclass(frozen=True)
class ItemEstimate:
    """The estimated mean of an item value over all items of a task.

    Attributes:
        value: The estimate; the mean itself if all items were answered.
        stderr: Standard error of the sampling; 0 if all items were answered.
        influence: The most that the answer of one item can change the estimate; 0 if all items were answered.
        answered: Number of answered items.
        items: Number of all items.
    """

    value: float
    stderr: float
    influence: float
    answered: int
    items: int


@dataclass(frozen=True)
class _Cell:
    """Items whose values of each parent are of one level.

    Attributes:
        items: In the order in which they are sampled.
        disagreement: Mean difference of the parents' values (0..1, in units of their range).
        rate: Sampling rate relative to other cells.
    """

    items: tuple[int, ...]
    disagreement: float
    rate: float = 1.0


class ItemSample:
    """The items of one task that a child answers; a sample of a larger share contains those of smaller shares.

    Args:
        items: Ids of all items.
        parents: The values of the items that each parent has answered, by id. An item that only one parent has answered
            is predicted from that one; an item that neither has, by the mean of all known values.
        key: Seed of the sample; each child and each task has a key of its own.
    """

    def __init__(self, items: Sequence[int], parents: tuple[Values, Values], key: str) -> None:
        known = [value for parent in parents for value in parent.values()]
        low, high = min(known, default=0.0), max(known, default=0.0)
        typical = math.fsum(known) / len(known) if known else 0.0
        groups: dict[tuple[int, int], list[int]] = {}
        self._predicted: dict[int, float] = {}
        for item in items:
            values = [parent[item] for parent in parents if item in parent] or [typical]
            self._predicted[item] = math.fsum(values) / len(values)
            first, second = (_level(parent.get(item), low, high) for parent in parents)
            groups.setdefault((first, second), []).append(item)
        self._known = (low, high)
        self._cells = _rated(
            [
                _Cell(_shuffled(group, key), _disagreement(group, parents, high - low))
                for _, group in sorted(groups.items())
            ]
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
        sizes, count = self._sizes(share), len(self._predicted)
        if sum(sizes) == count:
            return ItemEstimate(math.fsum(values[item] for item in self._predicted) / count, 0.0, 0.0, count, count)
        sampled = [cell.items[:size] for cell, size in zip(self._cells, sizes, strict=True)]
        samples = [[values[item] - self._predicted[item] for item in items] for items in sampled]
        width = self._width([values[item] for items in sampled for item in items])
        total, variance, weight = math.fsum(self._predicted.values()), 0.0, 0.0
        pooled = _pooled_variance(samples, width)
        for cell, residuals in zip(self._cells, samples, strict=True):
            size, items = len(residuals), len(cell.items)
            total += items * math.fsum(residuals) / size
            variance += items * (items - size) * (_squares(residuals) + pooled) / size**2
            weight = max(weight, items / size) if size < items else weight
        return ItemEstimate(total / count, math.sqrt(variance) / count, weight * width / count, sum(sizes), count)

    def _width(self, values: Sequence[float]) -> float:
        """Return the range of the values of the parents and the child; 1, that of most metrics, if all are equal."""
        low, high = self._known
        return max(high, *values) - min(low, *values) or 1.0

    def _sizes(self, share: float) -> list[int]:
        """Return how many items of each cell are sampled; for a larger share never fewer."""
        scale = _scale(self._cells, share * len(self._predicted))
        sizes = []
        for cell in self._cells:
            wanted = math.floor(len(cell.items) * min(1.0, scale * cell.rate) + 0.5)
            sizes.append(min(len(cell.items), max(wanted, _FEWEST)))
        return sizes


def _pooled_variance(samples: Sequence[Sequence[float]], width: float) -> float:
    """Return the variance within cells, with one observation more, a quarter of the range from the mean.

    Each cell's variance has the weight of one observation on this one. Otherwise a few equal answers would have no
    error at all.
    """
    total = math.fsum(_squares(residuals) for residuals in samples)
    return (total + width**2 / 16) / sum(map(len, samples))


def _squares(residuals: Sequence[float]) -> float:
    """Return the sum of squared differences from the mean."""
    mean = math.fsum(residuals) / len(residuals)
    return math.fsum((residual - mean) ** 2 for residual in residuals)


def _rated(cells: Sequence[_Cell]) -> tuple[_Cell, ...]:
    """Return the cells with their rates: the even share, and the rest in proportion to the disagreement."""
    total = math.fsum(len(cell.items) for cell in cells)
    mean = math.fsum(len(cell.items) * cell.disagreement for cell in cells) / max(total, 1.0)
    if mean <= 0:
        return tuple(cells)
    return tuple(_Cell(cell.items, cell.disagreement, _EVEN + (1 - _EVEN) * cell.disagreement / mean) for cell in cells)


def _scale(cells: Sequence[_Cell], wanted: float) -> float:
    """Return the factor of the rates, each capped at 1, with which so many items are expected."""
    by_rate = sorted(cells, key=lambda cell: -cell.rate)
    left = wanted
    for number, cell in enumerate(by_rate):
        scale = left / math.fsum(len(other.items) * other.rate for other in by_rate[number:])
        if scale * cell.rate <= 1:
            return scale
        left -= len(cell.items)
    return math.inf


def _disagreement(items: Sequence[int], parents: tuple[Values, Values], width: float) -> float:
    """Return the mean difference of the parents' values; 1/2 where one has not answered."""
    if width <= 0:
        return 0.0
    first, second = parents
    return math.fsum(
        abs(first[item] - second[item]) / width if item in first and item in second else 0.5 for item in items
    ) / len(items)


def _level(value: float | None, low: float, high: float) -> int:
    if value is None:
        return _UNKNOWN
    return min(_LEVELS - 1, int(_LEVELS * (value - low) / (high - low))) if high > low else 0


def _shuffled(items: Sequence[int], key: str) -> tuple[int, ...]:
    """Return items in the order of their permanent random numbers; no random generator has a part in it."""
    return tuple(sorted(items, key=lambda item: hashlib.sha256(f"{key}\0{item}".encode()).digest()))
