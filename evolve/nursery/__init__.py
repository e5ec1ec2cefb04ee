"""A tiny model family and small benchmarks, made from nothing: what the demo and the tests run on.

A base in Mistral's architecture learns three subjects by halves, three specialists learn one of them well each, and
items in the schemas of Winogrande, GSM8K and TruthfulQA examine them. Importing this package is cheap: torch and
transformers are loaded by `build`.
"""

from evolve.nursery.acceptance import OWN_TASK, shortfalls
from evolve.nursery.family import Family, build, load
from evolve.nursery.recipe import NurseryRecipe

__all__ = ["OWN_TASK", "Family", "NurseryRecipe", "build", "load", "shortfalls"]
