"""lm-eval's `hf` model class, with forward passes over what requests have in common done once."""

from __future__ import annotations

__all__: list[str] = []
