"""Executors: they run calls without knowing their meaning."""

from evolve.run.executors.base import Call, Done, Executor, Failed, Outcome, Progress, run_call, scratch
from evolve.run.executors.local import LocalExecutor

__all__ = ["Call", "Done", "Executor", "Failed", "LocalExecutor", "Outcome", "Progress", "run_call", "scratch"]
