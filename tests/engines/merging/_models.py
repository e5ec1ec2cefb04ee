"""Tiny real models with a vocabulary of single characters, as `save_pretrained` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.families import HIDDEN, config, silent, weights

__all__ = ["HIDDEN", "WORDS", "generate", "save", "silent", "tokenizer", "weights"]

WORDS = 60


def tokenizer(
    extra: Sequence[str] = (), *, chat_template: str | None = None, eos: str = "</s>", pad: str | None = None
):
    """Return a tokenizer of `WORDS` entries, most of them single characters, and the extra special tokens after them."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for index in range(WORDS - 3):
        vocabulary[chr(ord("0") + index)] = len(vocabulary)
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.decoder = decoders.BPEDecoder()
    raw.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>", *extra)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token=eos, pad_token=pad, model_max_length=64
    )
    if chat_template is not None:
        wrapped.chat_template = chat_template
    return wrapped


def save(
    folder: Path,
    family: str = "mistral",
    *,
    seed: int = 0,
    near: Path | None = None,
    dtype: str = "float32",
    extra: Sequence[str] = (),
    chat_template: str | None = None,
    eos: str = "</s>",
    pad: str | None = None,
    shard: str | None = None,
    scale: float = 0.2,
    **more: Any,
) -> Path:
    """Write a model with random weights, or with weights near those of another model of the same layout.

    Args:
        folder: Where to write it.
        family: transformers' `model_type`.
        seed: Seed of the weights.
        near: A model of the same layout; noise is added to its weights.
        dtype: Type of the weights.
        extra: Special tokens after the common vocabulary, with a row each.
        chat_template: Chat template of the tokenizer.
        eos: End token of the tokenizer and of the configurations.
        pad: Padding token of the tokenizer and of the configurations.
        shard: transformers' `max_shard_size`.
        scale: Standard deviation of the noise; with `near`, its square.
        more: Settings of `config`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    words = tokenizer(extra, chat_template=chat_template, eos=eos, pad=pad)
    ids = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    settings = config(family, **({"rows": len(words)} | ids | more))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(settings)
        parameters = dict(model.named_parameters())
        known = {} if near is None else dict(AutoModelForCausalLM.from_pretrained(near).named_parameters())
        with torch.no_grad():
            for name, weight in parameters.items():
                noise = torch.randn_like(weight) * scale
                old = known.get(name)
                weight.add_(noise)
                if old is not None:
                    rows = min(len(old), len(weight))
                    weight[:rows] = old[:rows] + noise[:rows] * scale
    model.to(getattr(torch, dtype))
    model.generation_config.eos_token_id = words.eos_token_id
    model.generation_config.max_new_tokens = 4
    model.save_pretrained(folder, **({} if shard is None else {"max_shard_size": shard}))
    words.save_pretrained(folder)
    return folder


def generate(folder: Path) -> list[int]:
    """Load a checkpoint, check its logits, and return the token ids that it generates."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).float().eval()
    inputs = torch.tensor([[1, *range(5, len(words))][:40]])
    with torch.no_grad():
        logits = model(inputs).logits
        assert logits.shape[-1] == len(words)
        assert torch.isfinite(logits).all()
        said = model.generate(inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=3, do_sample=False)
    return said[0].tolist()
