"""Finds out whether a model answers shared prefixes as it answers plain requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from evolve.engines.evaluation.hf.passes import Answer
from evolve.engines.evaluation.hf.plan import TokenRequest

__all__ = ["PROBE_BATCH_SIZE", "PROBE_FAILURES", "probe_requests", "shortest_window", "why_not_shared"]

PROBE_BATCH_SIZE = 2
"""With this batch size the plan of the probe has a prefix, and rows of several requests and of different lengths."""

_PRIMER, _CONTEXTS, _CHOICES = 20, (3, 6, 4, 5), (3, 7)

_TOLERANCES = {torch.float64: 5e-5, torch.float32: 5e-5, torch.float16: 0.02, torch.bfloat16: 0.15}
"""Largest difference of a token's log-likelihood by dtype; a wrong mask or position makes differences of whole nats."""

PROBE_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a model raises that takes no mask of four dimensions, no positions, or no keys and values."""


def probe_requests(vocabulary: int) -> list[TokenRequest]:
    """Return eight requests: four contexts after a primer, with two choices each.

    Args:
        vocabulary: Number of token ids of the model.
    """
    drawn = 0

    def tokens(count: int) -> tuple[int, ...]:
        nonlocal drawn
        drawn += count
        # Squares do not repeat within any short distance, as the multiples of a number do.
        return tuple((7919 + number * number * 31) % vocabulary for number in range(drawn - count, drawn))

    primer = tokens(_PRIMER)
    requests: list[TokenRequest] = []
    for length in _CONTEXTS:
        context = primer + tokens(length)
        requests += [TokenRequest((context + choice)[:-1], choice) for choice in map(tokens, _CHOICES)]
    return requests


def why_not_shared(
    requests: Sequence[TokenRequest],
    plain: Callable[[Sequence[TokenRequest]], list[Answer]],
    shared: Callable[[Sequence[TokenRequest]], list[Answer]],
    dtype: Any,
) -> str | None:
    """Return why a model cannot share prefixes, or None if it answers the requests both ways alike.

    Args:
        requests: Those of `probe_requests`.
        plain: Answers requests by themselves.
        shared: Answers them from shared prefixes.
        dtype: The model's.
    """
    try:
        found = shared(requests)
    except torch.OutOfMemoryError:
        raise
    except PROBE_FAILURES as error:
        return f"it cannot compute them ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    most = _TOLERANCES.get(dtype, _TOLERANCES[torch.bfloat16])
    differences = [
        abs(one[0] - other[0]) / len(request.targets)
        for request, one, other in zip(requests, plain(requests), found, strict=True)
    ]
    # A NaN is no difference that is small enough.
    if all(difference <= most for difference in differences):
        return None
    return f"its answers then differ by {max(differences):.2g} for a token"


def shortest_window(config: Any) -> int | None:
    """Return the smallest number of tokens that an attention layer of a configuration looks back, None for all."""
    text = config.get_text_config()
    used = getattr(text, "use_sliding_window", True)
    names = ["attention_chunk_size", "window_size", *(["sliding_window"] if used else [])]
    windows = [size for size in (getattr(text, name, None) for name in names) if isinstance(size, int) and size > 0]
    return min(windows, default=None)
