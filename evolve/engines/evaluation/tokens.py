"""Keeps the token ids of a task's requests, for the next model with the same tokenizer and for later runs.

lm-eval encodes the context of each choice of a document twice. Here the texts of all requests are encoded in batches,
each context once, and lm-eval takes the ids from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from evolve.engines.evaluation.encoding import Encoder, Ids
from evolve.engines.evaluation.tables import has_table, read_table, write_table

__all__ = ["forget_tokens_but", "kept_tokens"]

_TOKENIZERS = 4  # tokenizers of which the ids of a task are kept in memory

_kept: dict[str, dict[str, Ids]] = {}
"""Ids by task and tokenizer, the latest tokenizer last."""


def forget_tokens_but(tasks: Iterable[str]) -> None:
    """Forget the token ids of this process that are not of these tasks."""
    for task in _kept.keys() - set(tasks):
        del _kept[task]


@contextmanager
def kept_tokens(lm: Any, task: str, folder: Path | None, instances: Callable[[], Sequence[Any]]) -> Iterator[None]:
    """Let a model object of lm-eval take token ids from those that are kept, and keep those that it lacks.

    It gets the ids that its own methods would give. Model classes that encode in another way than lm-eval's `hf`, and
    encoder-decoder models, are left alone.

    Args:
        lm: The model object.
        task: Name of the task.
        folder: Folder of kept ids of the task; None: only this process keeps them.
        instances: Returns all requests of the call, once lm-eval has built them.
    """
    if not _encodes_as_hf(lm):
        yield
        return
    keeper = _Keeper(lm, task, folder, instances)
    lm._encode_pair, lm.tok_encode = keeper.pair, keeper.text  # noqa: SLF001 - lm-eval has no other hook
    try:
        yield
    finally:
        for name in ("_encode_pair", "tok_encode"):
            vars(lm).pop(name, None)


def _encodes_as_hf(lm: Any) -> bool:
    from lm_eval.models.huggingface import HFLM

    own = type(lm)
    return (
        isinstance(lm, HFLM)
        and lm.backend == "causal"
        and own._encode_pair is HFLM._encode_pair  # noqa: SLF001
        and own.tok_encode is HFLM.tok_encode
    )


class _Keeper:
    """The token ids of one task's requests while a model answers them."""

    def __init__(self, lm: Any, task: str, folder: Path | None, instances: Callable[[], Sequence[Any]]) -> None:
        self._encoder = Encoder(lm)
        self._task = task
        self._folder = folder
        self._instances = instances
        self._ids: Ids | None = None
        self._context: tuple[Any, list[int]] = (None, [])

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Return what lm-eval's `_encode_pair` returns."""
        found = self._all().get(_hash(context, continuation))
        if found is None:
            return self._encoder.pair(context, continuation)
        if found[0] is not self._context[0]:
            self._context = found[0], found[0].tolist()
        return self._context[1], found[1].tolist()

    def text(
        self,
        string: str,
        add_special_tokens: bool | None = None,  # noqa: FBT001 - lm-eval's parameters
        left_truncate_len: int | None = None,
        **options: Any,
    ) -> list[int]:
        """Return what lm-eval's `tok_encode` returns."""
        plain = add_special_tokens is None and not left_truncate_len and not options
        found = self._all().get(_hash(string)) if plain else None
        if found is None:
            return self._encoder.text(string, add_special_tokens, left_truncate_len, **options)
        ids: list[int] = found[0].tolist()
        return ids

    def _all(self) -> Ids:
        if self._ids is None:
            self._ids = self._found()
        return self._ids

    def _found(self) -> Ids:
        """Return the ids of all requests of the call: the kept ones, and the others encoded and kept."""
        tokenizer = self._encoder.tokenizer_hash()
        stem = f"tokens-{(tokenizer or '')[:12]}"
        known = dict(_kept.get(self._task, {}).pop(tokenizer, {}) if tokenizer else {})
        asked = {_hash(*texts): texts for texts in map(_texts, self._instances()) if texts is not None}
        stored: Ids = {}
        if tokenizer and self._folder is not None and not asked.keys() <= known.keys():
            vocabulary = len(self._encoder.lm.tokenizer)
            stored = read_table(self._folder, stem, _schema(), lambda table: _of_table(table, vocabulary)) or {}
            known = {**stored, **known}
        new = {key: texts for key, texts in asked.items() if key not in known}
        known.update(self._encoder.encode(new))
        if tokenizer:
            kept = _kept.setdefault(self._task, {})
            kept[tokenizer] = known
            for name in list(kept)[:-_TOKENIZERS]:
                del kept[name]
            if self._folder is not None and known and (new or not has_table(self._folder, stem)):
                write_table(self._folder, stem, _table(known))
        return known


def _texts(instance: Any) -> tuple[str, ...] | None:
    """Return the texts of a request that are encoded together; None if lm-eval encodes them in another way."""
    pair = instance.request_type == "loglikelihood"
    texts = instance.args[: 2 if pair else 1]
    if not all(isinstance(text, str) for text in texts) or (pair and not texts[0]):
        return None
    return tuple(texts)


def _hash(first: str, second: str | None = None) -> bytes:
    data = first.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(b"%d " % (len(data) if second is not None else -1), digest_size=16)
    digest.update(data)
    if second is not None:
        digest.update(second.encode("utf-8", "surrogatepass"))
    return digest.digest()


def _schema() -> Any:
    import pyarrow

    ids = pyarrow.list_(pyarrow.int32())
    return pyarrow.schema([("request", pyarrow.binary(16)), ("first", ids), ("rest", ids)])


def _table(known: Ids) -> Any:
    """Return the table of token ids; `first` is null where it is that of the row before."""
    import pyarrow

    firsts = [first for first, _ in known.values()]
    repeated = [False, *(after is before for before, after in pairwise(firsts))]
    shown = [None if same else first for same, first in zip(repeated, firsts, strict=True)]
    schema = _schema()
    columns = (list(known), shown, [rest for _, rest in known.values()])
    return pyarrow.table(
        [pyarrow.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)], schema=schema
    )


def _of_table(table: Any, vocabulary: int) -> Ids:
    """Return the token ids of a table; raise ValueError if a value is impossible."""
    keys = table.column("request").to_pylist()
    firsts, rests = (list(_arrays(table.column(name), vocabulary)) for name in ("first", "rest"))
    if None in keys or (firsts and firsts[0] is None):
        raise ValueError("a value is missing")
    known: dict[bytes, tuple[Any, Any]] = {}
    last = None
    for key, first, rest in zip(keys, firsts, rests, strict=True):
        last = last if first is None else first
        known[key] = last, rest
    return known


def _arrays(column: Any, vocabulary: int) -> Iterator[Any]:
    """Yield the lists of a column as arrays; None where there is none."""
    for chunk in column.chunks:
        values = chunk.values.to_numpy(zero_copy_only=False)
        if len(values) and not (values.min() >= 0 and values.max() < vocabulary):  # also if one is missing
            raise ValueError("a token is not of the tokenizer")
        offsets = chunk.offsets.to_numpy()
        for number, valid in enumerate(chunk.is_valid().to_pylist()):
            yield values[offsets[number] : offsets[number + 1]] if valid else None
