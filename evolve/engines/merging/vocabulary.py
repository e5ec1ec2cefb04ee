"""Whether models count the same tokens, read from their JSON files.

Row i of an embedding belongs to token i of the tokenizer. Merging two models whose tokens differ row by row therefore
either fails (32000 and 32001 rows) or, worse, blends the rows of different tokens; mergekit lines the rows up by token
where the recipe names a tokenizer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from evolve.errors import ModelError

__all__ = ["Setting", "Source", "resolve_tokenizer", "same_vocabulary"]

Source = Literal["union", "base", "first"]
"""Whose tokens the child has: all of its models', the base model's, parent 1's."""

Setting = Literal["auto", "union", "base", "first"]

_RAW = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


def resolve_tokenizer(setting: Setting | None, models: Sequence[Path], *, base: Path | None = None) -> Source | None:
    """What the recipe of a merge has to say about tokenizers.

    Nothing, where all models have the same vocabulary already: the plain merge copies the tokenizer as it is, and is
    some seconds faster. Else `auto` is `union`, which loses no token that any parent was taught (an end-of-turn token
    above all), while `base` gives all children the base model's vocabulary, at the price of such tokens.

    Args:
        setting: As configured; None never mentions a tokenizer.
        models: Checkpoint folders of all models whose weights take part in the merge.
        base: Checkpoint folder of the base model; without it, `base` is always mentioned.

    Raises:
        ModelError: A config.json or tokenizer.json cannot be read.
    """
    if setting is None:
        return None
    if setting == "base":
        return None if base is not None and same_vocabulary([*models, base]) else "base"
    if same_vocabulary(models):
        return None
    return "union" if setting == "auto" else setting


def same_vocabulary(models: Sequence[Path]) -> bool:
    """Whether all models have equally many rows and the same number for every token.

    Tokenizers of which one comes only as tokenizer.json and another only in an older form cannot be compared and count
    as different, which costs a little time in the merge and does no harm.

    Raises:
        ModelError: A config.json or tokenizer.json cannot be read.
    """
    if len({_rows(folder) for folder in models}) > 1:
        return False
    return any(
        len(prints) == 1 and None not in prints
        for prints in ({_tokens(folder) for folder in models}, {_raw_tokens(folder) for folder in models})
    )


def _rows(folder: Path) -> Any:
    config = _read(folder / "config.json")
    text = config.get("text_config")
    return config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)


def _tokens(folder: Path) -> str | None:
    """A hash of the numbers of all tokens by tokenizer.json; None where there is none."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    content = _read(path)
    vocabulary = content.get("model", {}).get("vocab", {})
    if isinstance(vocabulary, list):  # Unigram: pairs of token and score, numbered by their place
        vocabulary = {pair[0]: number for number, pair in enumerate(vocabulary)}
    added = {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
    return _digest(dict(vocabulary) | added)


def _raw_tokens(folder: Path) -> str | None:
    """A hash of the files of an older tokenizer and of its added tokens; None where there are none."""
    files = {name: (folder / name).read_bytes() for name in _RAW if (folder / name).is_file()}
    if not files:
        return None
    added: dict[str, Any] = {}
    if (folder / "added_tokens.json").is_file():
        added |= _read(folder / "added_tokens.json")
    if (folder / "tokenizer_config.json").is_file():
        decoder = _read(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
        added |= {token["content"]: int(number) for number, token in decoder.items()}
    return _digest([{name: hashlib.sha256(data).hexdigest() for name, data in files.items()}, added])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} does not hold a JSON object: download the model again")
    return value
