"""Tiny models of the families that users have: two layers, hidden size 32, and a byte-level BPE tokenizer."""

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
from tests.engines.merging._models import config

ROWS = 320
LORA = {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}


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
    """All bytes, some merges, three special tokens, and the extra ones after them."""
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer.from_str(_raw_tokenizer())
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in extra])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=256
    )


def save(
    folder: Path,
    family: str = "llama",
    *,
    seed: int = 0,
    near: Path | None = None,
    dtype: str = "float32",
    tied: bool = False,
    shard: str | None = None,
    extra: Sequence[str] = (),
    **sizes: Any,
) -> Path:
    """Write a model with random weights, or with those of `near` and some noise.

    Args:
        folder: Where to write it.
        family: transformers' `model_type`.
        seed: Seeds the weights.
        near: A model of the same layout.
        dtype: Of the weights.
        tied: Whether the embeddings are one tensor.
        shard: transformers' `max_shard_size`; None: one file.
        extra: Tokens after the common ones, with a row each.
        sizes: Other settings of the configuration.
    """
    import torch
    from transformers import AutoModelForCausalLM

    words = tokenizer(extra)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 256}
    settings = config(family, rows=len(words), tied=tied, initializer_range=0.2, **(ids | sizes))
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


def adapt(folder: Path, model: Path, *, seed: int = 0, trained: bool = True, tokens: int = 0, **settings: Any) -> Path:
    """An adapter as peft saves it, with random numbers where training would put its own."""
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
    """A copy of a model with its weights in the form of old: a file of torch's for each of safetensors'."""
    import torch
    from safetensors.torch import load_file

    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    places = {}
    for path in sorted(model.glob("*.safetensors")):
        name = path.name.replace("model", "pytorch_model", 1).replace(".safetensors", ".bin")
        tensors = load_file(path)
        if json.loads((model / "config.json").read_text()).get("tie_word_embeddings"):
            tensors |= {"lm_head.weight": tensors["model.embed_tokens.weight"]}  # the very same
        torch.save(tensors, folder / name)
        places |= dict.fromkeys(tensors, name)
    if len(set(places.values())) > 1:
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def winogrande(folder: Path, limit: int = 6) -> TaskSpec:
    """A few items of the benchmark's form, as a task."""
    if not folder.exists():
        _world.write_lines(folder / "train.jsonl", _world.winogrande_items(4, 1))
        _world.write_lines(folder / "validation.jsonl", _world.winogrande_items(limit, 2))
    return TaskSpec("winogrande", "acc,none", num_fewshot=1, dataset=folder)


def weights(folder: Path) -> dict[str, Any]:
    """All tensors of a checkpoint, by name."""
    from safetensors.torch import load_file

    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def silent(words: str, done: int, total: int) -> None:
    """A report that nobody reads."""
