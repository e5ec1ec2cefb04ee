"""Model kinship (arXiv 2410.12613): how alike the deltas of two models over their common base are.

Importing this package is cheap; torch is loaded by the first measurement.
"""

from evolve.engines.kinship.meter import measure

__all__ = ["measure"]
