"""Greedy decoding of some prompts in a batch whose finished rows are replaced by waiting ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from evolve.engines.evaluation.hf.rows import GeneratingRows, common_prefix
from evolve.engines.evaluation.hf.stops import Stops

__all__ = ["decode"]


_PASS = 4096
"""Tokens of a pass over prompts. More would be no faster, and need memory for two copies of their keys and values."""


@dataclass
class _Row:
    number: int
    tokens: list[int] = field(default_factory=list)


def decode(
    start: Callable[[Sequence[int]], GeneratingRows],
    prompts: Sequence[list[int]],
    *,
    rows: int,
    most: int,
    ends: frozenset[int],
    stops: Stops,
) -> Iterator[tuple[int, list[int]]]:
    """Yield the number of each prompt and its generated tokens, in the order in which they finish.

    A row ends with a token of `ends`, with the first token at which `stops` finds a string, or with `most` tokens.

    Args:
        start: Returns a batch without rows for prompts with a common prefix.
        prompts: Token ids, at least one each.
        rows: The most rows at a time.
        most: The most tokens of an answer.
        ends: Tokens that end an answer.
        stops: Strings that end an answer.

    Raises:
        FloatingPointError: The logits are not numbers.
    """
    batch = start(common_prefix(prompts))
    waiting = deque(range(len(prompts)))
    active: list[_Row] = []
    while waiting or active:
        free = rows - len(active)
        # A pass for a single new row would cost as much as the steps that it saves.
        if waiting and (not active or free >= max(1, rows // 4)):
            together = max(1, _PASS // len(prompts[waiting[0]]))
            changed = [_Row(waiting.popleft()) for _ in range(min(free, len(waiting), together))]
            logits = batch.join([prompts[row.number] for row in changed])
            active += changed
        else:
            changed = active
            logits = batch.step([row.tokens[-1] for row in active])
        for row, token in zip(changed, _greedy(logits), strict=True):
            row.tokens.append(token)
        found = stops.ended([row.tokens for row in changed])
        finished = {
            row.number: row.tokens
            for row, stop in zip(changed, found, strict=True)
            if stop or row.tokens[-1] in ends or len(row.tokens) == most
        }
        for place in reversed(range(len(active))):
            if active[place].number in finished:
                batch.leave(place)
                active[place] = active[-1]
                active.pop()
        yield from finished.items()


def _greedy(logits: Any) -> list[int]:
    """Return the likeliest token of each row; the first of equal ones."""
    values, tokens = logits.float().max(dim=-1)
    found: list[int] = torch.where(values.isnan(), -1, tokens).tolist()
    if -1 in found:
        raise FloatingPointError("logits are not numbers")
    return found
