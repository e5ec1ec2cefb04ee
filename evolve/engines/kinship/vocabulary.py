"""Which row of an embedding belongs to which token.

Two models with different tokenizers can hold the same token in different rows, and rows that belong to no token at
all (padding up to a round number). What is comparable is the row of a token that both know.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from evolve.engines.checkpoints import Layout
from evolve.errors import ModelError

__all__ = ["Vocabulary", "read_tokens"]

_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model", "added_tokens.json", "tokenizer_config.json")


class Vocabulary:
    """The tokens of a model and the rows they have in its embeddings."""

    def __init__(self, layout: Layout) -> None:
        self.folder = layout.folder
        embeddings = [info.rows for info in layout.parameters().values() if layout.is_vocabulary(info)]
        self.row_counts = sorted(embeddings) or [0]

    @cached_property
    def tokens(self) -> Mapping[str, int] | None:
        """As `read_tokens` gives them."""
        return read_tokens(self.folder)

    def rows_of(self, base: Vocabulary) -> Mapping[int, int] | None:
        """The own row for each row of the base; None where all rows have the same number in both.

        That is so where both have as many rows, and either the tokenizers give all tokens the same rows or one of the
        two has no tokenizer; padding rows then count like all others. Otherwise the mapping holds the rows of the
        tokens that both know, and no padding.

        Raises:
            ModelError: The numbers of rows differ, and a tokenizer to tell the tokens by is missing or unreadable.
        """
        same_size = self.row_counts == base.row_counts
        if same_size and self._files == base._files:
            return None  # without opening the tokenizers
        if self.tokens is None or base.tokens is None:
            if same_size:
                return None
            bare = (base if base.tokens is None else self).folder
            raise ModelError(
                f"{base.folder} and {self.folder} have embeddings of {max(base.row_counts)} and "
                f"{max(self.row_counts)} rows, and {bare} has no tokenizer to tell which rows belong to the same "
                "tokens: add its tokenizer.json"
            )
        if same_size and self.tokens == base.tokens:
            return None
        return {row: self.tokens[token] for token, row in base.tokens.items() if token in self.tokens}

    @cached_property
    def _files(self) -> dict[str, bytes]:
        paths = (self.folder / name for name in _FILES)
        return {path.name: path.read_bytes() for path in paths if path.is_file()}


def read_tokens(folder: Path) -> Mapping[str, int] | None:
    """The row of each token of a checkpoint, or None where it has no tokenizer.

    They are read from `tokenizer.json`, or else `vocab.json`, with the tokens that `added_tokens.json` and
    `tokenizer_config.json` add to it. A folder with nothing but a SentencePiece model (`tokenizer.model`) is opened
    by transformers, which is not allowed to run code of the model. Two tokens may have one row, as where an added
    token takes over a row of the vocabulary; the added one then comes later.

    Raises:
        ModelError: There is a tokenizer, but it cannot be read.
    """
    whole, plain = folder / "tokenizer.json", folder / "vocab.json"
    try:
        if whole.is_file():
            return dict(_entries(folder, json.loads(whole.read_bytes())))
        if plain.is_file():
            return dict(_entries(folder, {"model": {"vocab": json.loads(plain.read_bytes())}}))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"the tokenizer in {folder} cannot be read ({error!r}): download the model again") from error
    return _through_transformers(folder) if (folder / "tokenizer.model").is_file() else None


def _entries(folder: Path, tokenizer: Any) -> Iterator[tuple[str, int]]:
    """Tokens and rows, those of the vocabulary first."""
    vocabulary = tokenizer["model"]["vocab"]
    if isinstance(vocabulary, list):  # a Unigram model: pieces with their scores, in the order of the rows
        yield from ((entry[0], row) for row, entry in enumerate(vocabulary))
    else:
        yield from vocabulary.items()
    yield from ((token["content"], int(token["id"])) for token in tokenizer.get("added_tokens") or ())
    added, settings = (_json(folder / name) for name in ("added_tokens.json", "tokenizer_config.json"))
    yield from ((token, int(row)) for token, row in added.items())
    yield from ((token["content"], int(row)) for row, token in (settings.get("added_tokens_decoder") or {}).items())


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes()) if path.is_file() else {}


def _through_transformers(folder: Path) -> Mapping[str, int]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder.resolve()), local_files_only=True, trust_remote_code=False)
        tokens: dict[str, int] = tokenizer.get_vocab()
    except (OSError, ValueError, ImportError, RuntimeError, AttributeError, TypeError, KeyError) as error:
        raise ModelError(
            f"the tokenizer in {folder} has no tokenizer.json and transformers cannot open it ({error}): "
            "save it again with AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        ) from error
    return tokens
