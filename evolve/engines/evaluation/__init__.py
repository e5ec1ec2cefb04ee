"""Scoring of checkpoints with lm-eval. Importing this package loads neither torch nor lm-eval."""

from __future__ import annotations

from evolve.engines.evaluation.check import inspect_tasks
from evolve.engines.evaluation.engine import evaluate
from evolve.engines.evaluation.rehearsal import rehearse_evaluation

__all__ = ["evaluate", "inspect_tasks", "rehearse_evaluation"]
