"""The tokenizer in the recipe of a merge.

Row i of an embedding belongs to token i of the tokenizer. Merging two models whose tokens differ row by row either
fails (32000 and 32001 rows) or, worse, blends the rows of different tokens. mergekit aligns the rows by token where
the recipe names a tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from evolve.engines.checkpoints import same_vocabulary

__all__ = ["TokenizerSetting", "TokenizerSource", "resolve_tokenizer"]

TokenizerSource = Literal["union", "base", "first"]
"""Source of the child's tokens: all its models, the base model, or parent 1."""

TokenizerSetting = Literal["auto", "union", "base", "first"]
"""The configurable values; `auto` means `union` if vocabularies differ."""


def resolve_tokenizer(
    setting: TokenizerSetting | None, models: Sequence[Path], *, base: Path | None = None
) -> TokenizerSource | None:
    """Return the source of the child's tokens that the recipe of a merge must name.

    The result is None if all models have the same vocabulary: the plain merge copies the tokenizer unchanged, and is
    some seconds faster. Otherwise `auto` becomes `union`, which loses no token that any parent was taught (above all
    an end-of-turn token). `base` gives all children the vocabulary of the base model, at the price of such tokens.

    Args:
        setting: As configured; None never names a tokenizer.
        models: Checkpoint folders of all models whose weights take part in the merge.
        base: Checkpoint folder of the base model; without it, `base` is always named.

    Raises:
        ModelError: A JSON file of a model cannot be read.
    """
    if setting is None:
        return None
    if setting == "base":
        return None if base is not None and same_vocabulary([*models, base]) else "base"
    if same_vocabulary(models):
        return None
    return "union" if setting == "auto" else setting
