"""Tiny real models on disk: a few layers, hidden size 32, with a tokenizer, as `save_pretrained` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORDS = 60
HIDDEN = 32

_SIZES: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def tokenizer(
    extra: Sequence[str] = (), *, chat_template: str | None = None, eos: str = "</s>", pad: str | None = None
):
    """A word-level-like BPE tokenizer of `WORDS` entries and the extra special tokens after them."""
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


def config(family: str, *, layers: int = 2, rows: int = WORDS, tied: bool = False, **more: Any):
    """Configuration of a tiny model of a family, by transformers' `model_type`."""
    from transformers import AutoConfig

    sizes = dict(_SIZES, num_hidden_layers=layers, vocab_size=rows, tie_word_embeddings=tied)
    sizes |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    if family != "gpt_neox":
        sizes |= {"num_key_value_heads": 2}
    if family in {"gemma", "gemma2", "qwen3"}:
        sizes |= {"head_dim": 8}
    return AutoConfig.for_model(family, **(sizes | more))


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
    """Writes a tiny model with random weights; with `near`, weights close to those of another model of equal layout.

    Args:
        folder: Where to write it.
        family: transformers' `model_type`.
        seed: Seeds the weights.
        near: A model folder; the new weights are its weights and `scale` times noise of their own spread.
        dtype: Of the weights.
        extra: Special tokens after the common vocabulary, with a row each.
        chat_template: Of the tokenizer.
        eos: End token of the tokenizer and of the configurations.
        pad: Padding token of the tokenizer and of the configurations.
        shard: transformers' `max_shard_size`.
        scale: Spread of the noise.
        more: For `config`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    words = tokenizer(extra, chat_template=chat_template, eos=eos, pad=pad)
    ids = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    settings = config(family, **({"rows": len(words)} | ids | more))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(settings)
        weights = dict(model.named_parameters())
        known = {} if near is None else dict(AutoModelForCausalLM.from_pretrained(near).named_parameters())
        with torch.no_grad():
            for name, weight in weights.items():
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


def tensors(folder: Path):
    """All tensors of a checkpoint by name."""
    from safetensors.torch import load_file

    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def silent(words: str, done: int, total: int) -> None:
    """A report that nobody reads."""


def speaks(folder: Path) -> list[int]:
    """Loads a checkpoint, runs it forward and lets it generate; returns what it said as token numbers."""
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
