"""evolve: merges fine-tuned language models into better ones, generation after generation.

Top-k Greedy Merging with Model Kinship (arXiv 2410.12613) on mergekit, lm-eval and networkx.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
