"""A byte-level BPE tokenizer, trained on the nursery's own text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

PAD, START, END = "<pad>", "<s>", "</s>"


def train(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Trains the tokenizer.

    All 256 bytes are in its alphabet, so that no text whatever is unknown to it.

    Args:
        texts: What to train on. The result depends on it and on `vocabulary` alone.
        vocabulary: Number of entries, at least 259.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def for_transformers(tokenizer: Tokenizer, positions: int) -> PreTrainedTokenizerFast:
    """Wraps the tokenizer for `save_pretrained`, with its special tokens named."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        model_max_length=positions,
        clean_up_tokenization_spaces=False,
    )
