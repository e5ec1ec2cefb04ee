"""Tiny random models of many families: two layers, hidden size 32, and a byte-level BPE tokenizer."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from evolve.engines.protocols import TaskSpec
from tests.engines.evaluation import _world

ROWS = 320
HIDDEN = 32
LORA = {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}

_GROUPED = {"num_key_value_heads": 2}
_NARROW = _GROUPED | {"head_dim": 8}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SETTINGS: dict[str, dict[str, Any]] = {
    "bloom": {"n_head": 4},
    "cohere": _GROUPED,
    "falcon": {},
    "gemma": _NARROW,
    "gemma2": _NARROW,
    "gemma3_text": _NARROW,
    "gpt2": {"n_embd": HIDDEN, "n_head": 4},
    "gpt_neox": {},
    "gpt_oss": _NARROW | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "granite": _GROUPED,
    "lfm2": _GROUPED | {"layer_types": ["conv", "full_attention"]},
    "llama": _GROUPED,
    "mamba": {"state_size": 4},
    "mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1},
    "mistral": _GROUPED,
    "mixtral": _GROUPED | {"num_local_experts": 4},
    "olmo2": _GROUPED,
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": HIDDEN},
    "phi": _GROUPED,
    "phi3": _GROUPED,
    "qwen2": _GROUPED,
    "qwen2_moe": _GROUPED | _EXPERTS | {"shared_expert_intermediate_size": 32, "decoder_sparse_step": 1},
    "qwen3": _NARROW,
    "qwen3_moe": _NARROW | _EXPERTS,
    "smollm3": _GROUPED,
    "stablelm": _GROUPED,
}
"""Additional settings of a tiny model, by transformers' `model_type`."""


@cache
def _raw_tokenizer() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=ROWS,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator([json.dumps(item) for item in _world.winogrande_items(60, 0)], trainer)
    text: str = raw.to_str()
    return text


def tokenizer(extra: Sequence[str] = ()) -> Any:
    """Return a byte-level tokenizer with some merges, three special tokens and the extra tokens."""
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer.from_str(_raw_tokenizer())
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in extra])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=256
    )


def config(family: str, *, layers: int = 2, rows: int, tied: bool | None = False, **more: Any) -> Any:
    """Return the configuration of a tiny model.

    Args:
        family: transformers' `model_type`.
        layers: Number of layers.
        rows: Number of rows of the embeddings.
        tied: Whether the embeddings are one tensor; None: the default of the family.
        more: Other settings.
    """
    from transformers import AutoConfig

    sizes: dict[str, Any] = {
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "n_layer" if family in {"bloom", "gpt2"} else "num_hidden_layers": layers,
        "vocab_size": rows,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
    }
    if tied is not None:
        sizes["tie_word_embeddings"] = tied
    return AutoConfig.for_model(family, **(sizes | SETTINGS[family] | more))


def save(
    folder: Path,
    family: str = "llama",
    *,
    seed: int = 0,
    near: Path | None = None,
    dtype: str = "float32",
    tied: bool | None = False,
    shard: str | None = None,
    extra: Sequence[str] = (),
    **sizes: Any,
) -> Path:
    """Write a model with random weights, or with the weights of `near` and some noise.

    Args:
        folder: Where to write it.
        family: transformers' `model_type`.
        seed: Seeds the weights.
        near: A model with the same layout.
        dtype: Type of the weights.
        tied: Whether the embeddings are one tensor; None: the default of the family.
        shard: transformers' `max_shard_size`; None: one file.
        extra: Additional tokens, with one row each.
        sizes: Other settings of the configuration.
    """
    import torch
    from transformers import AutoModelForCausalLM

    words = tokenizer(extra)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 256}
    settings = config(family, tied=tied, **({"rows": len(words), "initializer_range": 0.2} | ids | sizes))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(settings)
        if near is not None:
            known = dict(AutoModelForCausalLM.from_pretrained(near, dtype=torch.float32).named_parameters())
            for name, weight in model.named_parameters():
                rows = min(len(known[name]), len(weight))
                weight[:rows] = known[name][:rows] + 0.02 * torch.randn_like(weight[:rows])
    model.to(getattr(torch, dtype)).save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    words.save_pretrained(folder)
    return folder


def store_buffers(folder: Path) -> Path:
    """Add the masks and rotary frequencies to a tiny GPT-NeoX that old versions of transformers stored."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith(".attention.dense.bias")]:
        attention = name.removesuffix(".dense.bias")
        tensors[f"{attention}.bias"] = torch.ones(1, 1, 256, 256, dtype=torch.bool).tril()
        tensors[f"{attention}.masked_bias"] = torch.tensor(-1e9)
        tensors[f"{attention}.rotary_emb.inv_freq"] = torch.tensor([1.0])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def adapt(folder: Path, model: Path, *, seed: int = 0, trained: bool = True, tokens: int = 0, **settings: Any) -> Path:
    """Save an adapter with peft; its weights are random if `trained`, else those of an untrained adapter."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        if tokens:
            loaded.resize_token_embeddings(loaded.config.vocab_size + tokens)
        adapted = peft.get_peft_model(loaded, peft.LoraConfig(**(LORA | settings)))
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if trained and ("lora_" in name or "modules_to_save" in name):
                    weight.copy_(torch.randn_like(weight) * 0.1)
        adapted.save_pretrained(folder)
    return folder


def pickled(folder: Path, model: Path) -> Path:
    """Copy a model with pickled weights: one torch file for each safetensors file."""
    import torch
    from safetensors.torch import load_file

    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    places = {}
    for path in sorted(model.glob("*.safetensors")):
        name = path.name.replace("model", "pytorch_model", 1).replace(".safetensors", ".bin")
        tensors = load_file(path)
        if json.loads((model / "config.json").read_text()).get("tie_word_embeddings"):
            tensors |= {"lm_head.weight": tensors["model.embed_tokens.weight"]}  # shares its memory
        torch.save(tensors, folder / name)
        places |= dict.fromkeys(tensors, name)
    if len(set(places.values())) > 1:
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def winogrande(folder: Path, limit: int = 6) -> TaskSpec:
    """Return a Winogrande task with a few generated items."""
    if not folder.exists():
        _world.write_lines(folder / "train.jsonl", _world.winogrande_items(4, 1))
        _world.write_lines(folder / "validation.jsonl", _world.winogrande_items(limit, 2))
    return TaskSpec("winogrande", "acc,none", num_fewshot=1, dataset=folder)


def weights(folder: Path) -> dict[str, Any]:
    """Return all tensors of a checkpoint, by name."""
    from safetensors.torch import load_file

    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def silent(words: str, done: int, total: int) -> None:
    """Ignore a report."""
