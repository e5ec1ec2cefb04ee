"""The lm-eval model class that shares prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from lm_eval.models.huggingface import HFLM

from evolve.engines.evaluation.hf.batch_size import find_batch_size
from evolve.engines.evaluation.hf.generation import GreedyWindow, answer_window, generate_until
from evolve.engines.evaluation.hf.greedy import refusal

__all__ = ["SharedPrefixLM"]


class SharedPrefixLM(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """lm-eval's `hf`, which computes what requests have in common once."""

    @property
    def batch_size(self) -> int:
        """The number of rows; batch size `auto` is tried when it is first needed."""
        if self.batch_size_per_gpu == "auto":
            self.batch_size_per_gpu = find_batch_size(self, all_logits=True)
        return int(self.batch_size_per_gpu)

    @cached_property
    def greedy_refusal(self) -> str | None:
        """Why lm-eval's own code generates with this model; None if `generation` does."""
        return refusal(self)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the generated texts of requests; see `generation`."""
        return generate_until(self, requests, super().generate_until)

    def _generate_window(self, window: GreedyWindow) -> list[str]:
        """Answer some requests of a list, as one batch for what caches between batches."""
        return answer_window(self, window, super().generate_until)
