"""The lm-eval model class that shares prefixes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from evolve.engines.evaluation.hf.batch_size import find_batch_size
from evolve.engines.evaluation.hf.generation import GreedyWindow, answer_window, generate_until
from evolve.engines.evaluation.hf.greedy import refusal
from evolve.engines.evaluation.hf.packing import pack
from evolve.engines.evaluation.hf.passes import Answer, PackedPasses
from evolve.engines.evaluation.hf.plan import Batch, TokenRequest, plan_batches
from evolve.engines.evaluation.hf.probe import (
    PROBE_BATCH_SIZE,
    longest_shared,
    probe_requests,
    why_never_shared,
    why_not_shared,
)

__all__ = ["SharedPrefixLM"]

_log = logging.getLogger("evolve.engines.evaluation")


class SharedPrefixLM(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """lm-eval's `hf`, which computes what requests have in common once, and generates without waiting rows.

    Requests of `loglikelihood` are tokenized and truncated by `HFLM`. Where a model cannot share prefixes, its requests
    are answered by `HFLM`, and the log states the reason: a probe scores eight requests both ways when the model is
    loaded, and requests that are too long for it are known by the configuration.

    Attributes:
        not_shared: Why this model cannot share prefixes; None if it can.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Load a model as `HFLM` does, and probe it."""
        self.batch_size_per_gpu: int | str
        super().__init__(*args, **kwargs)
        self._known: Sequence[Answer | None] = ()
        self._passes: PackedPasses | None = None
        self.not_shared = self._why_not_shared()
        if self.not_shared is not None:
            _log.info("prefixes are not shared: %s", self.not_shared)

    @property
    def batch_size(self) -> int:
        """The number of rows of a batch; for batch size `auto` it is found when it is first needed."""
        if self.batch_size_per_gpu == "auto":
            self.batch_size_per_gpu = find_batch_size(self, all_logits=self.not_shared is not None)
        return int(self.batch_size_per_gpu)

    @cached_property
    def greedy_refusal(self) -> str | None:
        """Why lm-eval's own code generates with this model; None if `generation` does."""
        return refusal(self)

    def generate_until(self, requests: Sequence[Any], *, disable_tqdm: bool = False) -> list[str]:
        """Return the generated texts of requests; see `generation`."""
        return generate_until(self, requests, partial(super().generate_until, disable_tqdm=disable_tqdm))

    def _generate_window(self, window: GreedyWindow) -> list[str]:
        """Answer some requests of a list, as one batch for what caches between batches."""
        return answer_window(self, window, partial(super().generate_until, disable_tqdm=True))

    def loglikelihood(
        self, requests: Sequence[Any], *, disable_tqdm: bool = False, known: Sequence[Answer | None] = ()
    ) -> list[Answer]:
        """Return the answers to all requests.

        Batches are planned over all requests, also those with known answers, and only then are the latter left out. So
        an interrupted evaluation continues with the batches that it would have had.

        Args:
            requests: lm-eval's instances.
            disable_tqdm: Whether no progress bar is written.
            known: The known answer to each request or None; empty if none is known.
        """
        self._known = known
        try:
            answers: list[Answer] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        finally:
            self._known = ()
        return answers

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], *, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[Answer]:
        if override_bs is not None:
            # Windows of `loglikelihood_rolling`, which have nothing in common.
            windows: list[Answer] = super()._loglikelihood_tokens(
                requests, disable_tqdm=disable_tqdm, override_bs=override_bs
            )
            return windows
        answers = dict(enumerate(self._known or [None] * len(requests)))
        unknown = [number for number, answer in answers.items() if answer is None]
        if unknown and self._shares(requests):
            found = self._answer_shared(requests, set(unknown))
        else:
            plain = super()._loglikelihood_tokens([requests[number] for number in unknown], disable_tqdm=disable_tqdm)
            found = dict(zip(unknown, plain, strict=True))
        return [found[number] if answer is None else answer for number, answer in answers.items()]

    def _shares(self, requests: Sequence[Any]) -> bool:
        """Return whether these requests can be answered from shared prefixes."""
        # `HFLM` refuses these with its own words.
        regular = all(context and 0 < len(targets) <= self.max_length for _, context, targets in requests)
        if self.not_shared is not None or not regular:
            return False
        most = longest_shared(self.config)
        longest = min(max(len(context) + len(targets) - 1 for _, context, targets in requests), self.max_length)
        if most is not None and longest > most:
            _log.info("prefixes are not shared: a request has %d tokens, and this model allows for %d", longest, most)
            return False
        return True

    def _answer_shared(self, requests: Sequence[Any], unknown: set[int]) -> dict[int, Answer]:
        """Answer all batches with an unknown request; return the answers by the number of the request."""
        plain = [self._token_request(context, targets) for _, context, targets in requests]
        longer = sum(len(context) + len(targets) > self.max_length + 1 for _, context, targets in requests)
        if longer:
            _log.warning("%d requests are longer than %d tokens and lose their beginning", longer, self.max_length)
        found: dict[int, Answer] = {}
        for batch in plan_batches(plain, self.batch_size):
            rows = tuple(row for row in batch.rows if not unknown.isdisjoint(row.requests))
            if not rows:
                continue
            answers = self._answer_batch(Batch(batch.prefix, rows), plain)
            for number in sorted(unknown.intersection(answers)):
                found[number] = answers[number]
                self.cache_hook.add_partial("loglikelihood", requests[number][0], answers[number])
        self._passes = None
        return found

    def _token_request(self, context: Sequence[int], targets: Sequence[int]) -> TokenRequest:
        """Return a request with the tokens that `HFLM` gives to the model, which loses the beginning of long ones."""
        return TokenRequest(tuple([*context, *targets][-(self.max_length + 1) :][:-1]), tuple(targets))

    def _answer_batch(self, batch: Batch, requests: Sequence[TokenRequest]) -> dict[int, Answer]:
        """Compute one batch. All answers of the batches before have been given to the cache hook."""
        if self._passes is None:
            self._passes = PackedPasses(
                self.model, self.device, autocast=self.mixed_precision_dtype, softmax_dtype=self.softmax_dtype
            )
        return self._passes.answer(pack(batch, requests), batch.prefix, requests)

    def _why_not_shared(self) -> str | None:
        if self.backend != "causal":
            return "the model is no causal one"
        if self.world_size > 1:
            return "several processes share the requests"
        if not isinstance(self.model.get_output_embeddings(), torch.nn.Module):
            return "the model has no output embeddings"
        reason = why_never_shared(self.model)
        if reason is not None:
            return reason
        text = self.model.config.get_text_config()
        requests = probe_requests(min(getattr(text, "vocab_size", len(self.tokenizer)), len(self.tokenizer)))
        return why_not_shared(requests, self._answer_alone, self._answer_probe, self.model.dtype)

    def _answer_probe(self, requests: Sequence[TokenRequest]) -> list[Answer]:
        found: dict[int, Answer] = {}
        for batch in plan_batches(requests, PROBE_BATCH_SIZE):
            found |= self._answer_batch(batch, requests)
        self._passes = None
        return [found[number] for number in range(len(requests))]

    def _answer_alone(self, requests: Sequence[TokenRequest]) -> list[Answer]:
        """Answer requests as `HFLM` does, with a log-softmax in float32 where it has none of its own."""
        tokens = [torch.tensor(request.tokens, device=self.device) for request in requests]
        logits = self._model_call(torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True))
        answers = []
        for request, row in zip(requests, logits, strict=True):
            read = row[request.first_read : len(request.tokens)]
            scores = torch.log_softmax(read, dim=-1, dtype=self.softmax_dtype or torch.float32)
            targets = torch.tensor(request.targets, device=scores.device)
            chosen = scores.gather(1, targets[:, None])
            answers.append((float(chosen.sum()), bool((scores.argmax(dim=-1) == targets).all())))
        return answers
