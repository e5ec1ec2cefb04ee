"""Finds how many rows of tokens a device holds, for batch size `auto`."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import torch

__all__ = ["find_batch_size"]

_ROW = 2048
"""Tokens of a row that is tried: more than the prompts of most tasks."""

_ON_HOST = 16
"""Rows on a CPU, where more rows take as much longer."""

_log = logging.getLogger("evolve.engines.evaluation")

_found: dict[tuple[Any, ...], int] = {}
"""Sizes found by this process, by device, shape of the model and length and most of the rows."""


def find_batch_size(lm: Any, *, all_logits: bool) -> int:
    """Return the largest power of two of rows, at most lm-eval's `max_batch_size`, of which the device holds one pass.

    Models of one shape get one size; it is tried once per process.

    Args:
        lm: lm-eval's model object.
        all_logits: Whether passes keep the logits of all tokens.

    Raises:
        torch.cuda.OutOfMemoryError: The device does not hold one row.
    """
    if torch.device(lm.device).type == "cpu":
        return min(_ON_HOST, int(lm.max_batch_size))
    length = min(_ROW, lm.max_length)
    # A class without this argument gives all logits. An adapter's class does not say whether it has it.
    all_logits = all_logits or "logits_to_keep" not in inspect.signature(lm.model.forward).parameters
    shape = sum(weight.numel() for weight in lm.model.parameters()), lm.model.dtype
    key = (str(lm.device), *shape, length, lm.max_batch_size, all_logits)
    if key not in _found:
        _found[key] = _largest(lm, length, all_logits=all_logits)
        _log.info("batch size auto: %d rows of %d tokens fit on %s", _found[key], length, lm.device)
    return _found[key]


def _largest(lm: Any, length: int, *, all_logits: bool) -> int:
    rows = 1
    while rows * 2 <= lm.max_batch_size:
        rows *= 2
    while not _fits(lm, rows, length, all_logits=all_logits):
        rows //= 2
    return rows


def _fits(lm: Any, rows: int, length: int, *, all_logits: bool) -> bool:
    """Return whether a pass whose keys and values are kept finds memory; one row must."""
    tokens = torch.zeros(rows, length, dtype=torch.long, device=lm.device)
    try:
        with torch.no_grad():
            if all_logits:
                torch.log_softmax(lm.model(input_ids=tokens, use_cache=True).logits, dim=-1, dtype=torch.float32)
            else:
                lm.model(input_ids=tokens, use_cache=True, logits_to_keep=1)
    except torch.cuda.OutOfMemoryError:
        if rows == 1:
            raise
        return False
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return True
