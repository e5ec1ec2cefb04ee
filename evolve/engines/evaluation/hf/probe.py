"""Finds out whether a model answers shared prefixes as it answers plain requests."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from evolve.engines.evaluation.hf.passes import Answer
from evolve.engines.evaluation.hf.plan import TokenRequest

__all__ = [
    "PROBE_BATCH_SIZE",
    "PROBE_FAILURES",
    "depends_on_length",
    "longest_shared",
    "probe_requests",
    "rotary_parameters",
    "why_never_shared",
    "why_not_shared",
]

PROBE_BATCH_SIZE = 2
"""With this batch size the plan of the probe has a prefix, and rows of several requests and of different lengths."""

_PRIMER, _CONTEXTS, _CHOICES = 20, (3, 6, 4, 5), (3, 7)

_TOLERANCES = {torch.float64: 5e-5, torch.float32: 5e-5, torch.float16: 0.02, torch.bfloat16: 0.15}
"""Largest difference of a token's log-likelihood by dtype; a wrong mask or position makes differences of whole nats."""

_MASKED = {None, "eager", "sdpa"}
"""Implementations of attention that take a mask of four dimensions; a class with its own has no name for it."""

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


def why_never_shared(model: Any) -> str | None:
    """Return why the class or the attention of a model cannot share prefixes; None if a probe can tell.

    Flash attention takes a mask of four dimensions for one of two, and then reads memory that is not the mask's: on a
    GPU this ends all work of the process. A class that takes no positions counts them along the row, by which the
    requests of a probe, which are short, may differ too little.
    """
    attention = getattr(model.config.get_text_config(), "_attn_implementation", None)
    if attention not in _MASKED:
        return f"its attention {attention} takes no mask of four dimensions"
    forward = inspect.signature(getattr(model, "get_base_model", lambda: model)().forward)
    if "position_ids" not in forward.parameters:
        return "its class takes no positions"
    return None


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


def longest_shared(config: Any) -> int | None:
    """Return the most tokens of a request that can share prefixes by the configuration of a model; None for any number.

    It may have no more tokens than each attention layer looks back, and than those with which rotary positions change.
    """
    text = config.get_text_config()
    used = getattr(text, "use_sliding_window", True)
    names = ["attention_chunk_size", "window_size", *(["sliding_window"] if used else [])]
    sizes = [getattr(text, name, None) for name in names]
    for parameters in filter(depends_on_length, rotary_parameters(config)):
        sizes += [parameters.get("original_max_position_embeddings"), getattr(text, "max_position_embeddings", None)]
    return min((size for size in sizes if isinstance(size, int) and size > 0), default=None)


def rotary_parameters(config: Any) -> list[Mapping[str, Any]]:
    """Return the parameters of all rotary positions in a configuration; types of layers may have their own."""
    text = config.get_text_config(decoder=True)
    found = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    return [found, *(value for value in found.values() if isinstance(value, dict))]


def depends_on_length(parameters: Mapping[str, Any]) -> bool:
    """Return whether rotary positions with these parameters depend on the longest row of a batch."""
    kind = str(parameters.get("rope_type", "default"))
    return "dynamic" in kind or kind == "longrope"
