"""Greedy answers of a causal model: the texts of lm-eval's `hf`, in fewer and cheaper steps.

lm-eval hands each batch to transformers' `generate`, which runs until the longest answer of the batch has ended. Here
the requests are cut into windows. In a window a finished row leaves the batch and a waiting one takes its place, and
what all prompts of the window have in common is computed once. Answers are kept only between windows, so an
interrupted evaluation resumes with the same batches.

transformers' `generate_batch` (continuous batching) is not used. It gives the same tokens, but ends only at an
end-of-sequence token: for a stop string another thread would have to cancel the request, and the batches would depend
on timing. On a CPU it took several times as long as one `generate` for each prompt.

lm-eval's own code answers what is not plain greedy decoding, models whose cached keys and values do not give the logits
of a plain pass, and batches whose texts depend on when lm-eval ends the batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from evolve.engines.evaluation.hf.decoding import decode
from evolve.engines.evaluation.hf.greedy import GreedyOptions, greedy_options
from evolve.engines.evaluation.hf.rows import GeneratingRows
from evolve.engines.evaluation.hf.stops import Stops

__all__ = ["GreedyWindow", "answer_window", "generate_until"]

_WINDOW = 8
"""Batches of a window. The batch is not full at the end of a window, and an interruption loses what is in it.

With the lengths of GSM8K's reference answers and 16 rows, windows of 1, 4 and 8 batches take 1.8, 1.3 and 1.2 times the
least number of steps.
"""

_log = logging.getLogger("evolve.engines.evaluation")

Plain = Callable[..., list[str]]
"""lm-eval's own method that generates."""


@dataclass(frozen=True)
class GreedyWindow:
    """Requests that are answered together: lm-eval's instances, in its own order, with their common options."""

    requests: Sequence[Any]
    options: GreedyOptions


def generate_until(lm: Any, requests: Sequence[Any], plain: Plain) -> list[str]:
    """Return the texts that lm-eval's own method returns.

    Args:
        lm: A `SharedPrefixLM`. Its method `_generate_window` is called for each window.
        requests: lm-eval's instances.
        plain: lm-eval's own method.
    """
    from lm_eval.models.utils import Collator

    if lm.greedy_refusal is not None:
        _log.info("lm-eval's own code generates with this model: %s", lm.greedy_refusal)
        return plain(requests)
    groups = Collator.group(enumerate(requests), fn=lambda one: one[1].args[1], group_by="gen_kwargs")
    texts: dict[int, str] = {}
    for group in groups.values():
        options = greedy_options(lm, group[0][1].args[1])
        if options is None:
            order = group
            found = plain([request for _, request in group])
        else:
            order = sorted(group, key=lambda one: _order(lm, one[1].args[0]))
            windows = _cut([request for _, request in order], lm.batch_size * _WINDOW)
            found = [text for window in windows for text in lm._generate_window(GreedyWindow(window, options))]  # noqa: SLF001
        texts.update(zip((number for number, _ in order), found, strict=True))
    return [texts[number] for number in range(len(requests))]


def answer_window(lm: Any, window: GreedyWindow, plain: Plain) -> list[str]:
    """Return the texts of a window. Each is given to lm-eval's cache hook once all of its batch are known.

    Args:
        lm: The model.
        window: The requests.
        plain: lm-eval's own method; it answers batches that have an empty prompt, or an answer that may end earlier
            in lm-eval's own code.

    Raises:
        FloatingPointError: The logits are not numbers.
    """
    batches = list(_cut(window.requests, lm.batch_size))
    prompts = [_encode(lm, batch, window.options) for batch in batches]
    texts: list[dict[int, str | None]] = [{} for _ in batches]
    stops = Stops(lm.tokenizer, window.options.stops)
    # lm-eval's own code may have something to say about an empty prompt.
    places = [(at, row) for at, rows in enumerate(prompts) if all(rows) for row in range(len(rows))]
    for number, tokens in decode(
        lambda prefix: GeneratingRows(lm.model, lm.device, lm.batch_size, prefix),
        [prompts[at][row] for at, row in places],
        rows=lm.batch_size,
        most=window.options.most,
        ends=_ends(lm.model),
        stops=stops,
    ):
        at, row = places[number]
        texts[at][row] = _text(lm, tokens, stops)
        if len(texts[at]) == len(batches[at]) and None not in texts[at].values():
            for row, request in enumerate(batches[at]):
                lm.cache_hook.add_partial("generate_until", request.args, texts[at][row])
    found: list[str] = []
    for batch, known in zip(batches, texts, strict=True):
        complete = [text for _, text in sorted(known.items()) if text is not None]
        found += complete if len(complete) == len(batch) else plain(batch)
    return found


def _encode(lm: Any, batch: Sequence[Any], options: GreedyOptions) -> list[list[int]]:
    """Return the token ids of the prompts of a batch, truncated as lm-eval does it."""
    tokens, mask = lm.tok_batch_encode(
        [request.args[0] for request in batch],
        left_truncate_len=lm.max_length - options.most,
        truncation=lm.truncation,
    )
    return [row[seen.bool()].tolist() for row, seen in zip(tokens, mask, strict=True)]


def _ends(model: Any) -> frozenset[int]:
    """Return the tokens at which `generate` ends a row."""
    found = model.generation_config.eos_token_id
    return frozenset(() if found is None else [found] if isinstance(found, int) else found)


def _text(lm: Any, tokens: Sequence[int], stops: Stops) -> str | None:
    """Return the text of an answer; None if lm-eval's own depends on its batch.

    Its criterion sees special tokens and the text does not have them. So if a stop string is a special token at which
    `generate` does not end the row, lm-eval generates on until the whole batch has ended.
    """
    text: str = lm.tok_decode(tokens)
    if tokens[-1] not in _ends(lm.model) and stops.ended([tokens]) == [True] and not stops.within(text):
        return None
    return stops.cut(text)


def _order(lm: Any, prompt: str) -> tuple[int, str]:
    """Return lm-eval's key for the order of prompts: the longest first."""
    return -len(lm.tok_encode(prompt)), prompt


def _cut(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
