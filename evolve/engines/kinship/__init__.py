"""Model kinship (arXiv 2410.12613): how similar two models are in their deltas, the differences from their base.

Importing this package is cheap; torch is loaded by the first measurement.
"""

from evolve.engines.kinship.meter import measure

__all__ = ["measure"]
