"""Forward passes of a causal model over packed rows, on prefixes whose keys and values are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from evolve.engines.evaluation.hf.packing import PackedBatch
from evolve.engines.evaluation.hf.plan import Prefix, TokenRequest

__all__ = ["Answer", "PackedPasses"]

Answer = tuple[float, bool]

_SOFTMAX_ROWS = 512
"""Number of outputs of which the log-softmax is taken at once; in float32 it needs twice the memory of the logits."""


class _PrefixLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """Keys and values of a prefix in one layer.

    Once it is `complete`, each row of a batch continues it, and nothing of the batch is kept.
    """

    complete = False

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Return the keys and values of the prefix followed by the new ones."""
        if not self.complete:
            found: tuple[Any, Any] = super().update(key_states, value_states, *args, **kwargs)
            return found
        rows = key_states.shape[0]
        return (
            torch.cat([self.keys.expand(rows, -1, -1, -1), key_states], dim=-2),
            torch.cat([self.values.expand(rows, -1, -1, -1), value_states], dim=-2),
        )


class PackedPasses:
    """Computes packed batches of one model, and keeps the keys and values of the present prefix and its parents."""

    def __init__(self, model: Any, device: Any, *, autocast: Any, softmax_dtype: Any) -> None:
        """Prepare passes.

        Args:
            model: A causal model of transformers.
            device: Where its inputs are.
            autocast: dtype of mixed precision; None: none.
            softmax_dtype: dtype of the log-softmax; None: float32.
        """
        self._model = model
        self._device = device
        self._autocast = autocast
        self._softmax_dtype = softmax_dtype or torch.float32
        self._caches: dict[Prefix, Any] = {}

    def answer(self, packed: PackedBatch, prefix: Prefix | None, requests: Sequence[TokenRequest]) -> dict[int, Answer]:
        """Return the log-likelihood of each request's targets, and whether each of them is the likeliest token.

        Args:
            packed: The rows of a batch.
            prefix: What they continue.
            requests: All requests; `packed` has some, by their numbers.
        """
        slots = sorted({slot for found in packed.slots.values() for slot in found})
        logits = self._forward(packed, prefix, slots)
        places = {slot: place for place, slot in enumerate(slots)}
        pairs = [
            (places[slot], target)
            for number, found in packed.slots.items()
            for slot, target in zip(found, requests[number].targets, strict=True)
        ]
        values, greedy = self._read(logits, pairs)
        answers, start = {}, 0
        for number, found in packed.slots.items():
            end = start + len(found)
            answers[number] = (float(values[start:end].sum()), bool(greedy[start:end].all()))
            start = end
        return answers

    def _read(self, logits: Any, pairs: Sequence[tuple[int, int]]) -> tuple[Any, Any]:
        """Return the log-probability of a token at an output for each pair, and whether it is the likeliest there."""
        places, tokens = torch.tensor(pairs, device=logits.device).T
        chosen, best = [], []
        # Not `logsumexp`, which sums more exactly: lm-eval's answers would differ by 1e-5 for each token.
        for places_here, tokens_here in zip(places.split(_SOFTMAX_ROWS), tokens.split(_SOFTMAX_ROWS), strict=True):
            scores = torch.log_softmax(logits[places_here], dim=-1, dtype=self._softmax_dtype)
            chosen.append(scores.gather(1, tokens_here[:, None])[:, 0])
            best.append(scores.argmax(dim=-1) == tokens_here)
        return torch.cat(chosen).float().cpu(), torch.cat(best).cpu()

    def _forward(self, packed: PackedBatch, prefix: Prefix | None, slots: Sequence[int]) -> Any:
        """Return the logits of some outputs, `[len(slots), vocabulary]`."""
        cache = None if prefix is None else self._cache(prefix)
        return self._call(
            torch.tensor(packed.tokens, device=self._device),
            torch.tensor(packed.positions, device=self._device),
            torch.tensor(packed.ends, device=self._device),
            cache,
            slots,
        )

    def _cache(self, prefix: Prefix) -> Any:
        """Return the keys and values of a prefix; keep only those of the prefixes that it continues."""
        if prefix in self._caches:
            return self._caches[prefix]
        parent = None if prefix.parent is None else self._cache(prefix.parent)
        cache = Cache(layer_class_to_replicate=_PrefixLayer)
        start = 0
        if parent is not None and prefix.parent is not None:
            start = len(prefix.parent.tokens)
            for layer in parent.layers:
                own = _PrefixLayer()
                own.lazy_initialization(layer.keys, layer.values)
                own.keys, own.values = layer.keys, layer.values
                cache.layers.append(own)
        width = len(prefix.tokens) - start
        self._call(
            torch.tensor([prefix.tokens[start:]], device=self._device),
            torch.arange(start, len(prefix.tokens), device=self._device)[None],
            torch.full((1, width), width, device=self._device),
            cache,
            [width - 1],
        )
        for layer in cache.layers:
            layer.complete = True
        kept, ancestor = {prefix: cache}, prefix.parent
        while ancestor is not None:
            kept[ancestor] = self._caches[ancestor]
            ancestor = ancestor.parent
        self._caches = kept
        return cache

    def _call(self, tokens: Any, positions: Any, ends: Any, cache: Any, slots: Sequence[int]) -> Any:
        rows, width = tokens.shape
        before = 0 if cache is None else cache.get_seq_length()
        columns = torch.arange(width, device=self._device)
        seen = (columns[None, None, :] <= columns[None, :, None]) & (columns[None, :, None] < ends[:, None, :])
        mask = torch.zeros(rows, 1, width, before + width, dtype=self._model.dtype, device=self._device)
        mask[:, 0, :, before:].masked_fill_(~seen, torch.finfo(mask.dtype).min)
        index = torch.tensor(slots, device=self._device)
        head = self._model.get_output_embeddings()
        handle = head.register_forward_pre_hook(
            lambda _, inputs: (inputs[0].flatten(0, 1)[index.to(inputs[0].device)][None], *inputs[1:])
        )
        try:
            with (
                torch.no_grad(),
                torch.autocast(
                    device_type=torch.device(self._device).type,
                    dtype=self._autocast,
                    enabled=self._autocast is not None,
                ),
            ):
                output = self._model(
                    input_ids=tokens,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=cache is not None,
                )
        finally:
            handle.remove()
        return output.logits[0]
