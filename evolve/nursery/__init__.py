"""A tiny model family and small benchmarks, built from nothing for the demo and the tests.

A base in Mistral's architecture learns three subjects in part, each of three specialists learns one of them well, and
items in the schemas of Winogrande, GSM8K and TruthfulQA evaluate them. Importing this package is cheap: torch and
transformers are loaded by `build`.
"""

from evolve.nursery.acceptance import OWN_TASK, shortfalls
from evolve.nursery.family import Family, build, load, refuse_foreign
from evolve.nursery.recipe import NurseryRecipe

__all__ = ["OWN_TASK", "Family", "NurseryRecipe", "build", "load", "refuse_foreign", "shortfalls"]
