"""Merging: recipes (templates of mergekit YAML) and the engine that carries them out with mergekit.

This package is light to import; mergekit, transformers and torch are imported by the functions that need them.
"""

from __future__ import annotations

from evolve.engines.merging.checking import check_recipe
from evolve.engines.merging.merger import merge
from evolve.engines.merging.planning import plan_merges
from evolve.engines.merging.recipes import (
    Template,
    identity,
    load_template,
    named_models,
    parse_template,
    render,
    template_names,
)
from evolve.engines.merging.rehearsal import rehearse_merge
from evolve.engines.merging.tokenizers import TokenizerSetting, TokenizerSource, resolve_tokenizer

__all__ = [
    "Template",
    "TokenizerSetting",
    "TokenizerSource",
    "check_recipe",
    "identity",
    "load_template",
    "merge",
    "named_models",
    "parse_template",
    "plan_merges",
    "rehearse_merge",
    "render",
    "resolve_tokenizer",
    "template_names",
]
