"""Training of the tokenizer and of the tiny models: AdamW on packed pages, with the loss on the answers alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from evolve.nursery.recipe import NurseryRecipe

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor
    from transformers import MistralForCausalLM, PreTrainedTokenizerFast

    from evolve.nursery.corpus import Page

PAD, START, END = "<pad>", "<s>", "</s>"
_IGNORED = -100


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer. All 256 bytes are in its alphabet, so it can encode every text.

    Args:
        texts: The training text. The result depends on it and on `vocabulary` alone.
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
    """Wrap a tokenizer for `save_pretrained`, with its special tokens."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        model_max_length=positions,
        clean_up_tokenization_spaces=False,
    )


def new_model(recipe: NurseryRecipe, tokenizer: Tokenizer, seed: int) -> MistralForCausalLM:
    """Return an untrained model. The random generators of the process do not change."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.key_value_heads,
        max_position_embeddings=recipe.positions,
        sliding_window=None,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.token_to_id(PAD),
        bos_token_id=tokenizer.token_to_id(START),
        eos_token_id=tokenizer.token_to_id(END),
    )
    # transformers can draw the weights only from the global generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MistralForCausalLM(config)


def round_to_bfloat16(model: MistralForCausalLM) -> None:
    """Round every weight to its bfloat16 value; the model stays in float32."""
    import torch

    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.to(torch.bfloat16))


def save(model: MistralForCausalLM, folder: Path) -> None:
    """Write a checkpoint in bfloat16; the model itself does not change."""
    import torch
    from transformers.utils import logging

    half = copy.deepcopy(model).to(torch.bfloat16)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        half.save_pretrained(folder)
    finally:
        if bars:
            logging.enable_progress_bar()


def train(
    model: MistralForCausalLM,
    tokenizer: Tokenizer,
    batches: Iterable[list[Page]],
    *,
    steps: int,
    peak_rate: float,
    recipe: NurseryRecipe,
    on_step: Callable[[int], None],
) -> None:
    """Train a model in place.

    Args:
        model: The model, in float32 on the CPU.
        tokenizer: Its tokenizer.
        batches: The pages of each step.
        steps: Number of batches; the length of the schedule.
        peak_rate: Learning rate after the warm-up.
        recipe: The schedule's shape and the number of threads.
        on_step: Called with the number of steps done, after each.
    """
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)

    def share(done: int) -> float:
        rise = min(1.0, (done + 1) / max(1, recipe.warm_up))
        return rise * (1 - (1 - recipe.final_rate) * done / max(1, steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    model.train()
    with _threads(recipe.threads):
        for done, pages in enumerate(batches, start=1):
            loss = _loss(model, *_tensors(tokenizer, pages))
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            on_step(done)
    model.eval()


def _loss(model: MistralForCausalLM, tokens: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy over the counted tokens.

    Args:
        model: The model.
        tokens: Token ids, of shape (pages, length), padded on the right. They need no mask: the attention is causal
            and the padding is not counted.
        labels: The same ids, `_IGNORED` where they do not count.
    """
    import torch

    hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
    wanted = labels[:, 1:]
    counted = wanted != _IGNORED
    # The output layer is a third of the model, and most tokens do not count: apply it only to those that do.
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[counted]), wanted[counted])


def _tensors(tokenizer: Tokenizer, pages: list[Page]) -> tuple[Tensor, Tensor]:
    """Encode pages as (tokens, labels), both int64 of shape (pages, length)."""
    import torch

    encoded = [tokenizer.encode(page.text) for page in pages]
    length = max(len(page.ids) for page in encoded)
    # The id of the padding does not matter: no counted token attends to it.
    tokens = torch.zeros((len(pages), length), dtype=torch.int64)
    labels = torch.full((len(pages), length), _IGNORED, dtype=torch.int64)
    for row, (page, encoding) in enumerate(zip(pages, encoded, strict=True)):
        tokens[row, : len(encoding.ids)] = torch.tensor(encoding.ids)
        for column, (start, end) in enumerate(encoding.offsets):
            if any(first <= start and end <= last for first, last in page.counted):
                labels[row, column] = encoding.ids[column]
    return tokens, labels


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Set the number of torch threads. On small matrices several threads mostly wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
