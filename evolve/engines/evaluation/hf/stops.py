"""Finds the end of a generated answer as lm-eval does, without decoding all of it at each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.models.utils import postprocess_generated_text

__all__ = ["Stops"]


class Stops:
    """The stop strings of a request.

    lm-eval's own criterion decodes the last tokens of a row, special ones included, at each step. Its answer is the
    text of all tokens without the special ones, cut at the first stop string.
    """

    def __init__(self, tokenizer: Any, strings: Sequence[str]) -> None:
        """Prepare the search for strings that are not empty."""
        self._tokenizer = tokenizer
        self._strings = strings
        lengths = [len(tokenizer.encode(string, add_special_tokens=False)) for string in strings]
        # The same string can be generated as other tokens; lm-eval allows for two more.
        self._window = max(lengths, default=0) + 2

    def ended(self, rows: Sequence[Sequence[int]]) -> list[bool]:
        """Return for each row of generated tokens whether its last tokens contain a stop string."""
        if not self._strings:
            return [False] * len(rows)
        tails = self._tokenizer.batch_decode([list(row[-self._window :]) for row in rows])
        return [self.within(tail) for tail in tails]

    def within(self, text: str) -> bool:
        """Return whether a text contains a stop string."""
        return any(string in text for string in self._strings)

    def cut(self, text: str) -> str:
        """Return a text up to its first stop string."""
        found: str = postprocess_generated_text(text, list(self._strings), None)
        return found
