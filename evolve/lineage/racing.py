"""The bounds of a race: which children cannot be among the k best any more.

A child's estimate has a normal error, and each look at a child may be wrong. A generation looks at each child once in
each rung below the whole, so the error that `confidence` allows is shared equally by all these looks (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

__all__ = ["Interval", "half_width_factor", "threshold"]


@dataclass(frozen=True)
class Interval:
    """The bounds of a model's average (0..1); both are the average itself if it was scored in full."""

    low: float
    high: float


def half_width_factor(confidence: float, looks: int) -> float:
    """Return how many standard errors an interval extends to each side of an estimate.

    Args:
        confidence: Probability that none of the intervals of a generation misses (0..1).
        looks: Number of intervals of a generation.
    """
    return NormalDist().inv_cdf(1 - (1 - confidence) / (2 * looks))


def threshold(intervals: Iterable[Interval], k: int) -> float | None:
    """Return the k-th best lower bound, which a member of the k best reaches; None if there are fewer intervals."""
    lows = sorted((interval.low for interval in intervals), reverse=True)
    return lows[k - 1] if len(lows) >= k else None
