"""The bounds of a race: which children cannot be among the k best any more.

An estimate has a normal error, and each look at a child may be wrong. So the error that `confidence` allows is divided
among all looks of a generation (Bonferroni): equally among the children, and among the rungs in proportion to their
shares, because later rungs decide closer races and their errors are closer to normal.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

__all__ = ["Interval", "interval", "threshold"]


@dataclass(frozen=True)
class Interval:
    """The bounds of a model's average; both are the average itself if it was scored in full."""

    low: float
    high: float


def interval(
    average: float, stderr: float, *, rungs: Sequence[float], rung: int, children: int, confidence: float
) -> Interval:
    """Return the bounds of an estimated average.

    Args:
        average: The estimate.
        stderr: Its standard error.
        rungs: The shares of all rungs.
        rung: Number of the present rung, from 1; its share is below 1.
        children: Number of children of the generation.
        confidence: The probability that no interval of the generation misses.
    """
    of_this = rungs[rung - 1] / math.fsum(share for share in rungs if share < 1)
    allowed = (1 - confidence) * of_this / children
    # By the lower tail, because 1 minus a tiny error is 1.
    half = -NormalDist().inv_cdf(max(allowed / 2, sys.float_info.min)) * stderr
    return Interval(average - half, average + half)


def threshold(intervals: Iterable[Interval], k: int) -> float | None:
    """Return the k-th best lower bound, which each of the k best reaches; None if there are fewer intervals."""
    lows = sorted((found.low for found in intervals), reverse=True)
    return lows[k - 1] if len(lows) >= k else None
