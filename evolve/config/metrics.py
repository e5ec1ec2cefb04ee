"""The kinship metrics: which way each points, and what values it can have (arXiv 2410.12613, section 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["METRICS", "Metric"]


@dataclass(frozen=True)
class Metric:
    """One kinship metric.

    Attributes:
        name: Its key in the configuration and in every record of a kinship.
        title: Its full name, in lower case.
        higher_is_more_akin: Whether a larger value means more similar models; false for a distance.
        range: The least and the greatest value that it can have.
    """

    name: str
    title: str
    higher_is_more_akin: bool
    range: tuple[float, float]

    def similarity(self, value: float) -> float:
        """Return a number that is larger the more similar two models are, for sorting."""
        return value if self.higher_is_more_akin else -value

    def is_beyond(self, value: float, threshold: float) -> bool:
        """Return whether models of this kinship are more similar than the threshold allows."""
        return self.similarity(value) > self.similarity(threshold)

    @property
    def beyond(self) -> str:
        """The word between a value and the threshold that it is beyond: `above` or `below`."""
        return "above" if self.higher_is_more_akin else "below"


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("pcc", "Pearson correlation", higher_is_more_akin=True, range=(-1.0, 1.0)),
            Metric("cs", "cosine similarity", higher_is_more_akin=True, range=(-1.0, 1.0)),
            Metric("ed", "Euclidean distance", higher_is_more_akin=False, range=(0.0, math.inf)),
        )
    }
)
"""All metrics by name; every kinship has a value of each."""
