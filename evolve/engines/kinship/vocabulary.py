"""Which rows of the embeddings of two models can be compared: those of the tokens that both have."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from evolve.engines.checkpoints import Layout, token_rows, tokenizer_files
from evolve.errors import ModelError

__all__ = ["Vocabulary"]


class Vocabulary:
    """The tokens of a model and the rows they have in its embeddings."""

    def __init__(self, layout: Layout) -> None:
        self.folder = layout.folder
        embeddings = [info.rows for info in layout.parameters().values() if layout.is_vocabulary(info)]
        self.row_counts = sorted(embeddings) or [0]

    @cached_property
    def tokens(self) -> Mapping[str, int] | None:
        """Row of each token, or None if there is no tokenizer."""
        return token_rows(self.folder)

    def rows_of(self, base: Vocabulary) -> Mapping[int, int] | None:
        """Return the own row for each row of the base; None if all rows have the same number in both.

        They have where both have equally many rows, and either the tokenizers give all tokens the same rows or one of
        the two has no tokenizer; padding is then compared, too. Otherwise the mapping holds the rows of the tokens that
        both have, and no padding.

        Raises:
            ModelError: A tokenizer is needed and is damaged, or is missing while the numbers of rows differ.
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
        return tokenizer_files(self.folder)
