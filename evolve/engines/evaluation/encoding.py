"""Encodes the requests of a task as lm-eval's `hf` does, but in batches, and each context once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Encoder", "Ids"]

_BATCH = 256  # texts that are encoded together

Ids = Mapping[bytes, tuple[Any, Any]]
"""Token ids by the hash of a request, as arrays: of a context and its continuation, or of a text and None."""


@dataclass
class Encoder:
    """lm-eval's own encoding of a model object, without the kept ids; in batches where the tokenizer has them."""

    lm: Any
    _prefix: str | None = field(default=None, init=False)

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Return what lm-eval's `_encode_pair` returns."""
        context, whole = _split(context, continuation)
        encoded = self.text(context)
        return encoded, self.text(whole)[len(encoded) :]

    def text(self, string: str, *arguments: Any, **options: Any) -> list[int]:
        """Return what lm-eval's `tok_encode` returns."""
        ids: list[int] = type(self.lm).tok_encode(self.lm, string, *arguments, **options)
        return ids

    def encode(self, requests: Mapping[bytes, tuple[str, ...]]) -> Ids:
        """Return the ids of requests; those of equal contexts that follow each other are one array."""
        import numpy as np

        done: dict[bytes, tuple[Any, Any]] = {}
        items = [(key, *(_split(*texts) if len(texts) == 2 else (texts[0], None))) for key, texts in requests.items()]
        text, first = None, None
        for start in range(0, len(items), _BATCH):
            part = items[start : start + _BATCH]
            wanted = list(dict.fromkeys(string for _, *pair in part for string in pair if string is not None))
            ids = dict(zip(wanted, self._batch(wanted), strict=True))
            for key, context, whole in part:
                if first is None or context != text:
                    text, first = context, np.asarray(ids[context], dtype=np.int32)
                rest = None if whole is None else np.asarray(ids[whole][len(first) :], dtype=np.int32)
                done[key] = first, rest
        return done

    def _batch(self, strings: Sequence[str]) -> list[list[int]]:
        """Return what `tok_encode` returns for each string."""
        if not strings or not _has_batches(self.lm.tokenizer):
            return [self.text(string) for string in strings]
        from lm_eval.models.utils import _add_special_kwargs, has_bos_prefix

        if self._prefix is None:
            self._prefix = self.lm.tokenizer.decode(self.lm.prefix_token_id)
        begins = [has_bos_prefix(string, self._prefix) for string in strings]
        found: dict[int, list[int]] = {}
        for begun in sorted(set(begins)):
            numbers = [number for number, own in enumerate(begins) if own is begun]
            options = {"add_special_tokens": False} if begun else _add_special_kwargs(None, self.lm.add_bos_token)
            encoded = self.lm.tokenizer([strings[number] for number in numbers], return_attention_mask=False, **options)
            found.update(zip(numbers, encoded["input_ids"], strict=True))
        return [found[number] for number in range(len(strings))]

    def tokenizer_hash(self) -> str | None:
        """Return the hash of all that decides the ids of a text; None if it is not known."""
        import tokenizers
        import transformers

        tokenizer = self.lm.tokenizer
        if not _has_batches(tokenizer):
            return None
        record = (
            _serialized(tokenizer.backend_tokenizer),
            type(tokenizer).__name__,
            tokenizer.split_special_tokens,
            self.lm.add_bos_token,
            tokenizer.decode(self.lm.prefix_token_id),
            transformers.__version__,
            tokenizers.__version__,
        )
        return hashlib.sha256(repr(record).encode("utf-8", "surrogatepass")).hexdigest()


def _split(context: str, continuation: str) -> tuple[str, str]:
    """Return the context without its trailing spaces, which lm-eval counts to the continuation, and the whole text."""
    return context.rstrip(), context + continuation


def _has_batches(tokenizer: Any) -> bool:
    """Return whether a tokenizer is of transformers' own fast classes, which encode a text alike in any batch."""
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    own = type(tokenizer)
    return (
        isinstance(tokenizer, PreTrainedTokenizerFast)
        and own.__module__.startswith("transformers.")
        and own.encode is PreTrainedTokenizerBase.encode
        and own.__call__ is PreTrainedTokenizerBase.__call__
        and own._encode_plus is PreTrainedTokenizerFast._encode_plus  # noqa: SLF001
    )


def _serialized(backend: Any) -> str:
    """Return a tokenizer of the library `tokenizers` as text, without the padding and truncation of the last call."""
    padding, truncation = backend.padding, backend.truncation
    backend.no_padding()
    backend.no_truncation()
    try:
        text: str = backend.to_str()
    finally:
        if padding is not None:
            backend.enable_padding(**padding)
        if truncation is not None:
            backend.enable_truncation(**truncation)
    return text
