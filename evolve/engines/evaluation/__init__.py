"""Scores checkpoints with lm-eval; see `evaluate` and `check_tasks`. Importing this package imports nothing heavy."""

from __future__ import annotations

from evolve.engines.evaluation.check import check_tasks, inspect_tasks
from evolve.engines.evaluation.engine import evaluate
from evolve.engines.evaluation.models import check_model_class

__all__ = ["check_model_class", "check_tasks", "evaluate", "inspect_tasks"]
