"""Merging: recipes (templates of mergekit YAML) and the engine that carries them out with mergekit.

This package is light to import; mergekit, transformers and torch are imported by the functions that need them.
"""

from __future__ import annotations

from evolve.engines.merging.checking import check_recipe
from evolve.engines.merging.merger import merge, rehearse, rehearse_recipe
from evolve.engines.merging.recipes import Template, identity, load_template, parse_template, render, template_names
from evolve.engines.merging.vocabulary import Setting, Source, resolve_tokenizer, same_vocabulary

__all__ = [
    "Setting",
    "Source",
    "Template",
    "check_recipe",
    "identity",
    "load_template",
    "merge",
    "parse_template",
    "rehearse",
    "rehearse_recipe",
    "render",
    "resolve_tokenizer",
    "same_vocabulary",
    "template_names",
]
