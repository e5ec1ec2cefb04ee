"""The rows of a batch that generates: their keys and values, and forward passes over them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from evolve.engines.evaluation.hf.plan import common_length

__all__ = ["GeneratingRows", "common_prefix"]

_LEAST_PREFIX = 16
"""Least number of common tokens for which a pass of their own is worth it."""

_GROWTH = 256
"""Columns by which the buffers grow."""


class _SlotLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """Keys and values of one layer, in buffers of the shape `[slots, heads, columns, size]`.

    transformers' own layer copies everything at each step. This one writes one column.
    """

    def __init__(self, slots: _Slots) -> None:
        super().__init__()
        self._slots = slots
        self.is_initialized = True

    def update(self, key_states: Any, value_states: Any, *_args: Any, **_kwargs: Any) -> tuple[Any, Any]:
        """Write the column of the present step; return all columns that a row uses, with it."""
        rows, start, end = len(self._slots.lengths), self._slots.start, self._slots.end
        self.keys[:rows, :, end : end + 1] = key_states
        self.values[:rows, :, end : end + 1] = value_states
        return self.keys[:rows, :, start : end + 1], self.values[:rows, :, start : end + 1]

    def get_seq_length(self) -> int:
        """Return the number of columns before the present step."""
        return self._slots.end - self._slots.start

    def resize(self, shape: tuple[int, int], start: int, end: int, new_end: int) -> None:
        """Allocate buffers of `(slots, columns)` and move the columns `start..end` so that they end at `new_end`."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            # Columns that no row has filled are masked, but a weight of zero times NaN would be NaN.
            new = old.new_zeros(shape[0], old.shape[1], shape[1], old.shape[3])
            if end > start:
                new[: old.shape[0], :, new_end - (end - start) : new_end] = old[:, :, start:end]
            setattr(self, name, new)

    def write(self, slot: int, fresh: DynamicLayer, row: int, length: int) -> None:
        """Copy the first columns of a row of another layer to the last columns of a slot."""
        end = self._slots.end
        self.keys[slot, :, end - length : end] = fresh.keys[row, :, :length]
        self.values[slot, :, end - length : end] = fresh.values[row, :, :length]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the last columns of a slot to another slot."""
        end = self._slots.end
        for buffer in (self.keys, self.values):
            buffer[target, :, end - length : end] = buffer[source, :, end - length : end]


class _Slots(Cache):  # type: ignore[misc]
    """A cache whose rows end at the same column, as rows padded on the left do.

    So a step writes one column for all rows, and a row that joins or leaves moves no other row's keys and values.

    Attributes:
        lengths: Number of tokens of each row.
        end: The column after the last one.
    """

    def __init__(self, slots: int) -> None:
        super().__init__(layers=[DynamicLayer()])
        self.layers: list[Any] = []
        self.lengths: list[int] = []
        self.end = 0
        self._count = slots
        self._columns = 0

    @property
    def start(self) -> int:
        """The first column that a row uses."""
        return self.end - max(self.lengths, default=0)

    def reserve(self, longest: int) -> None:
        """Make sure that a row of this length ends at `end`, and that the next column exists."""
        longest = max([longest, *self.lengths])
        if self.end >= longest and self.end < self._columns:
            return
        start, end = self.start, self.end
        if self.lengths or longest >= self._columns:
            self._columns = longest + _GROWTH
            for layer in self.layers:
                layer.resize((self._count, self._columns), start, end, longest)
        self.end = longest

    def join(self, fresh: Cache, lengths: Sequence[int]) -> None:
        """Add the rows of a cache whose columns begin with their tokens."""
        if not self.layers:
            for layer in fresh.layers:
                self.layers.append(_SlotLayer(self))
                self.layers[-1].keys, self.layers[-1].values = layer.keys[:0], layer.values[:0]
        self.reserve(max(lengths))
        for row, length in enumerate(lengths):
            for layer, new in zip(self.layers, fresh.layers, strict=True):
                layer.write(len(self.lengths), new, row, length)
            self.lengths.append(length)

    def leave(self, row: int) -> None:
        """Remove a row; the last row takes its slot."""
        length = self.lengths.pop()
        if row < len(self.lengths):
            for layer in self.layers:
                layer.move(len(self.lengths), row, length)
            self.lengths[row] = length

    def advance(self) -> None:
        """Count the column of a step as filled."""
        self.end += 1
        self.lengths = [length + 1 for length in self.lengths]


class GeneratingRows:
    """Rows of one model that grow by a token at each step."""

    def __init__(self, model: Any, device: Any, most: int, prefix: Sequence[int] = ()) -> None:
        """Compute the prefix.

        Args:
            model: A causal model of transformers.
            device: Where its inputs are.
            most: The most rows at a time.
            prefix: Tokens with which each row begins.
        """
        self._model = model
        self._device = device
        self._slots = _Slots(most)
        self._prefix = len(prefix)
        self._common = DynamicCache()
        self._positions = "position_ids" in inspect.signature(model.forward).parameters
        if prefix:
            self._call([list(prefix)], past_key_values=self._common, logits_to_keep=1)

    def join(self, prompts: Sequence[Sequence[int]]) -> Any:
        """Add rows; return the logits after the last token of each, `[rows, vocabulary]`.

        The tokens are padded on the right, where the causal mask hides the padding from the row. So no other mask is
        needed, and each token has its place in its row. A row is padded with its own last token.
        """
        rests = [list(prompt[self._prefix :]) for prompt in prompts]
        width = max(map(len, rests))
        ends = sorted({len(rest) - 1 for rest in rests})
        cache = self._branches(len(prompts))
        logits = self._call(
            [rest + rest[-1:] * (width - len(rest)) for rest in rests],
            past_key_values=cache,
            logits_to_keep=torch.tensor(ends, device=self._device),
        )
        self._slots.join(cache, [len(prompt) for prompt in prompts])
        places = [ends.index(len(rest) - 1) for rest in rests]
        return logits[torch.arange(len(rests)), torch.tensor(places)]

    def step(self, tokens: Sequence[int]) -> Any:
        """Append a token to each row; return the logits after it, `[rows, vocabulary]`."""
        self._slots.reserve(0)
        lengths = torch.tensor(self._slots.lengths, device=self._device)[:, None]
        columns = torch.arange(self._slots.end - self._slots.start + 1, device=self._device)
        logits = self._call(
            [[token] for token in tokens],
            past_key_values=self._slots,
            attention_mask=(columns >= columns[-1] - lengths).long(),
            logits_to_keep=1,
            **({"position_ids": lengths} if self._positions else {}),
        )
        self._slots.advance()
        return logits[:, -1]

    def leave(self, row: int) -> None:
        """Remove a row; the last row takes its place."""
        self._slots.leave(row)

    def _branches(self, rows: int) -> DynamicCache:
        """Return a cache of rows that continue the prefix."""
        return DynamicCache(
            [
                (layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1))
                for layer in self._common.layers
            ]
        )

    def _call(self, tokens: list[list[int]], **inputs: Any) -> Any:
        with torch.no_grad():
            return self._model(input_ids=torch.tensor(tokens, device=self._device), use_cache=True, **inputs).logits


def common_prefix(prompts: Sequence[list[int]]) -> list[int]:
    """Return the tokens with which all prompts begin, without the last token of a prompt; none if they are few."""
    if len(prompts) < 2:
        return []
    least = min(prompts)
    count = min(common_length(least, max(prompts)), min(map(len, prompts)) - 1)
    return least[:count] if count >= _LEAST_PREFIX else []
