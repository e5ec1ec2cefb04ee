"""The bounds of a race: which children cannot be among the k best any more.

A child is dropped if its upper bound is below the k-th best lower bound. Let it be one of the true k best all the same,
and let its upper bound hold. Then k lower bounds are above its average, and one of them is of a model outside the true
k best, whose average is no larger: that lower bound misses. So a wrong drop needs a miss of the upper bound of a model
among the true k best, or of the lower bound of another one. Each child can cause it by one of its bounds only, and a
full score by none. The error that `confidence` allows is therefore spent on one side of each interval.

Each look at a child may be wrong, so the allowed error is divided among all looks of a generation (Bonferroni): equally
among the children, and among the rungs in proportion to their shares, because later rungs decide closer races.

The error of a small sample is skewed and not normal: that of a rare answer which no sampled item has cannot be seen in
the standard error. The bounds are therefore wider by the term of Cornish and Fisher for the greatest skewness that the
estimate can have, at which all its variance is that of single answers.
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
    average: float,
    stderr: float,
    influence: float,
    *,
    rungs: Sequence[float],
    rung: int,
    children: int,
    confidence: float,
) -> Interval:
    """Return the bounds of an estimated average.

    Args:
        average: The estimate.
        stderr: Its standard error.
        influence: The most that the answer of one item can change it.
        rungs: The shares of all rungs.
        rung: Number of the present rung, from 1; its share is below 1.
        children: Number of children of the generation.
        confidence: The probability that no child of the generation is dropped by mistake.
    """
    of_this = rungs[rung - 1] / math.fsum(share for share in rungs if share < 1)
    allowed = min((1 - confidence) * of_this / children, 0.5)
    # By the lower tail, because 1 minus a tiny error is 1.
    z = -NormalDist().inv_cdf(max(allowed, sys.float_info.min))
    # The quantile of skewness s is z + (z**2 - 1) * s / 6, and s is at most influence / stderr.
    half = z * stderr + z**2 / 6 * influence
    return Interval(average - half, average + half)


def threshold(intervals: Iterable[Interval], k: int) -> float | None:
    """Return the k-th best lower bound, which each of the k best reaches; None if there are fewer intervals."""
    lows = sorted((found.low for found in intervals), reverse=True)
    return lows[k - 1] if len(lows) >= k else None
