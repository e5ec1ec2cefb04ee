"""The ranges of lm-eval's metrics, by which an impossible score is recognized."""

from __future__ import annotations

import math

from evolve.config import TaskConfig

__all__ = ["impossible"]

_SHARES = dict.fromkeys(
    ("acc", "acc_all", "acc_bytes", "acc_mutual_info", "acc_norm", "exact_match", "f1", "likelihood"), (0.0, 1.0)
)
_RANGES: dict[str, tuple[float, float]] = {
    **_SHARES,
    "mcc": (-1.0, 1.0),
    "brier_score": (0.0, 2.0),
    "perplexity": (0.0, math.inf),
    "word_perplexity": (0.0, math.inf),
    "byte_perplexity": (0.0, math.inf),
    "bits_per_byte": (0.0, math.inf),
    "ter": (0.0, math.inf),
    "bleu": (0.0, 100.0),
    "chrf": (0.0, 100.0),
    "chrf++": (0.0, 100.0),
}
_IN_PERCENT = ("squadv2", "scrolls")  # their own f1 is a percentage
_ROUNDING = 1e-6


def impossible(task: TaskConfig, value: float) -> str | None:
    """Return why a model cannot have a score on a task; None if it can. The range of an unknown metric is unknown."""
    if not math.isfinite(value):
        return f"{value} is not a finite number"
    name = task.metric.partition(",")[0]
    low, high = _RANGES.get(name, (-math.inf, math.inf))
    if name in _SHARES and task.task.startswith(_IN_PERCENT):
        high = 100.0
    if low - _ROUNDING <= value <= high + _ROUNDING:
        return None
    limits = f"between {low:g} and {high:g}" if math.isfinite(high) else f"at least {low:g}"
    return f"{value:g} is no value of {name}, which is {limits}"
