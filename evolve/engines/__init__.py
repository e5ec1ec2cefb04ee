"""The engines: mergekit merges, lm-eval scores, kinship over safetensors, each behind a small protocol.

Importing this package is cheap; the engines load torch and their libraries when they are first called, in a worker.
"""

from __future__ import annotations

from evolve.engines.evaluation import evaluate, inspect_tasks, rehearse_evaluation
from evolve.engines.inspection import inspect_models
from evolve.engines.kinship import measure
from evolve.engines.merging import merge, plan_merges, rehearse_merge
from evolve.engines.protocols import Engines

__all__ = ["REAL"]

REAL = Engines(
    merge=merge,
    evaluate=evaluate,
    measure=measure,
    inspect_models=inspect_models,
    plan_merges=plan_merges,
    rehearse_merge=rehearse_merge,
    rehearse_evaluation=rehearse_evaluation,
    inspect_tasks=inspect_tasks,
)
