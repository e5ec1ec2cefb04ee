"""Experts in one tensor, as transformers 5 holds them in memory and mergekit writes them, seen as one tensor each.

Released checkpoints of these families store each matrix of each expert as a separate tensor. Transformers stacks them
while it loads a model: `gate_up_proj` has the rows of both input matrices of each expert, and `down_proj` its output
matrix. Both forms hold the same numbers in the same order of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from evolve.engines.checkpoints.headers import TensorInfo

__all__ = ["unstacked"]

_QWEN = ("mlp", "gate_proj", "up_proj", "down_proj")
_STORED = {"mixtral": ("block_sparse_moe", "w1", "w3", "w2"), "qwen2_moe": _QWEN, "qwen3_moe": _QWEN}
"""By `model_type`: names, in released checkpoints, of the module of the experts and of the matrices of each."""


def unstacked(info: TensorInfo, model_type: object) -> Iterator[TensorInfo]:
    """Yield a tensor as released checkpoints store it: the matrices of stacked experts one by one, others unchanged."""
    if model_type not in _STORED:
        yield info
        return
    module, gate, up, down = _STORED[str(model_type)]
    name = info.name.replace(".mlp.", f".{module}.")
    before, _, leaf = name.rpartition(".experts.")
    parts = {"gate_up_proj": (gate, up), "down_proj": (down,)}.get(leaf, ())
    if not parts or len(info.shape) != 3 or info.shape[1] % len(parts):
        yield replace(info, name=name)
        return
    experts, rows, width = info.shape[0], info.shape[1] // len(parts), info.shape[2]
    size = info.size // (experts * len(parts)) if experts else 0
    for number in range(experts * len(parts)):
        expert, part = divmod(number, len(parts))
        yield TensorInfo(
            name=f"{before}.experts.{expert}.{parts[part]}.weight",
            file=info.file,
            dtype=info.dtype,
            shape=(rows, width),
            offset=info.offset + number * size,
            size=size,
        )
