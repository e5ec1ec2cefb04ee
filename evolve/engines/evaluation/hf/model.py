"""The lm-eval model class that shares prefixes."""

from __future__ import annotations

from lm_eval.models.huggingface import HFLM

__all__ = ["SharedPrefixLM"]


class SharedPrefixLM(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """lm-eval's `hf`, which computes what requests have in common once."""
