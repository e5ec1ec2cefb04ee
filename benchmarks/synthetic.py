"""Checkpoints of the Mistral-7B shape with random weights: a base and models similar to it, in several vocabularies.

Each is written tensor by tensor out of one pool of random numbers that repeats, so that a model of any size takes no
more memory than the pool and is made at the speed of the disk. A tensor begins at the same place of the pool in all
models; model i is the base plus a drift of a tenth, half of whose variance all models share: the kinship of any two is
0.5 by construction, apart from the rounding to bfloat16.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch

from evolve.engines.checkpoints import read_layout
from evolve.errors import ModelError

__all__ = ["ADDED_ROWS", "Shape", "make_family"]

ADDED_ROWS = (1, 0, 2)
"""Tokens that the three models have beyond those of the base: 32001, 32000 and 32002 rows, as in the paper."""

_POOL = (1 << 24) + 43  # numbers; odd, so that rows of a matrix do not repeat each other
_SHARD = 5_000_000_000  # bytes
_SPECIAL = ("<unk>", "<s>", "</s>")
_ALPHABET = [chr(0x4E00 + i) for i in range(256)]

Tensors = Sequence[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Shape:
    """The sizes of a model; by default those of Mistral-7B."""

    layers: int = 32
    hidden: int = 4096
    feed_forward: int = 14336
    heads: int = 32
    kv_heads: int = 8
    rows: int = 32000

    def tensors(self, rows: int) -> Tensors:
        """Return names and shapes of all tensors of a model with a number of rows in its embeddings."""
        wide, narrow = self.hidden, self.hidden // self.heads * self.kv_heads
        layer = {
            "input_layernorm": (wide,),
            "self_attn.q_proj": (wide, wide),
            "self_attn.k_proj": (narrow, wide),
            "self_attn.v_proj": (narrow, wide),
            "self_attn.o_proj": (wide, wide),
            "post_attention_layernorm": (wide,),
            "mlp.gate_proj": (self.feed_forward, wide),
            "mlp.up_proj": (self.feed_forward, wide),
            "mlp.down_proj": (wide, self.feed_forward),
        }
        layers = [(f"model.layers.{i}.{name}.weight", size) for i in range(self.layers) for name, size in layer.items()]
        ends = [("model.norm.weight", (wide,)), ("lm_head.weight", (rows, wide))]
        return [("model.embed_tokens.weight", (rows, wide)), *layers, *ends]

    def config(self, rows: int) -> dict[str, Any]:
        """Return the config.json of such a model."""
        return {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "vocab_size": rows,
            "hidden_size": self.hidden,
            "intermediate_size": self.feed_forward,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": 32768,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": "bfloat16",
        }


def make_family(folder: Path, shape: Shape) -> tuple[Path, dict[str, Path]]:
    """Write a base and three models, unless they exist; return the base's folder, and theirs by name."""
    base, models = folder / "base", {f"model-{i}": folder / f"model-{i}" for i in range(1, len(ADDED_ROWS) + 1)}
    for number, (place, added) in enumerate(zip([base, *models.values()], (0, *ADDED_ROWS), strict=True)):
        if not _is_made(place, shape.config(shape.rows + added)):
            _make(place, shape, number, added)
    return base, models


def _is_made(folder: Path, config: Mapping[str, Any]) -> bool:
    try:
        return read_layout(folder).config == config
    except ModelError:
        return False


def _make(folder: Path, shape: Shape, number: int, added: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tokens = [f"<|added-{number}-{i}|>" for i in range(added)]
    _write_json(folder / "tokenizer.json", _tokenizer(shape.rows, tokens))
    special = dict(zip(("unk_token", "bos_token", "eos_token"), _SPECIAL, strict=True))
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **special})
    _write_weights(folder, shape.tensors(shape.rows + added), _pool(number))
    _write_json(folder / "config.json", shape.config(shape.rows + added))  # last: it marks a complete model


def _pool(number: int) -> memoryview:
    """Return the numbers of the base (number 0) or of a model, as bytes of bfloat16."""

    def draw(seed: int) -> torch.Tensor:
        return torch.randn(_POOL, generator=torch.Generator().manual_seed(seed))

    values = draw(0)
    if number:
        values += 0.1 * 0.5**0.5 * (draw(1) + draw(1 + number))
    return memoryview((0.02 * values).to(torch.bfloat16).view(torch.uint8).numpy())


def _write_weights(folder: Path, tensors: Tensors, pool: memoryview) -> None:
    shards = list(_shards(tensors))
    places = {}
    for i, shard in enumerate(shards, start=1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        places |= {tensor: name for tensor, _ in shard}
        with (folder / name).open("wb", buffering=0) as file:
            _write_shard(file, shard, pool)
    if len(shards) > 1:
        total = sum(_bytes(size) for _, size in tensors)
        _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})


def _shards(tensors: Tensors) -> Iterator[Tensors]:
    shard: list[tuple[str, tuple[int, ...]]] = []
    for name, size in tensors:
        if shard and sum(_bytes(other) for _, other in shard) + _bytes(size) > _SHARD:
            yield shard
            shard = []
        shard.append((name, size))
    yield shard


def _write_shard(file: BinaryIO, shard: Tensors, pool: memoryview) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, size in shard:
        begin, end = end, end + _bytes(size)
        header[name] = {"dtype": "BF16", "shape": list(size), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name, size in shard:
        position, left = zlib.crc32(name.encode()) % _POOL * 2, _bytes(size)
        while left:
            count = file.write(pool[position : position + left])
            position, left = (position + count) % len(pool), left - count


def _bytes(size: tuple[int, ...]) -> int:
    return 2 * prod(size)


def _tokenizer(rows: int, added: Sequence[str]) -> dict[str, Any]:
    """Return a byte-pair tokenizer of `rows` tokens: specials, single characters, and pairs with their merges."""
    pairs = [[a, b] for a in _ALPHABET for b in _ALPHABET][: rows - len(_SPECIAL) - len(_ALPHABET)]
    tokens = [*_SPECIAL, *_ALPHABET, *("".join(pair) for pair in pairs)]
    marked = [*enumerate(_SPECIAL), *enumerate(added, start=rows)]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    nothing = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    model = {"type": "BPE", "unk_token": "<unk>", "vocab": {token: i for i, token in enumerate(tokens)}}
    return {
        "version": "1.0",
        **dict.fromkeys(nothing),
        "added_tokens": [{"id": number, "content": token, **flags} for number, token in marked],
        "model": model | {"merges": pairs},
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
