"""The steps of a run: each becomes a call, and its outcome becomes events; artefact first, event second."""

from evolve.run.steps.base import Task, Workshop
from evolve.run.steps.dispatch import begin
from evolve.run.steps.evaluate import batch_size
from evolve.run.steps.merge import restore_recipe

__all__ = ["Task", "Workshop", "batch_size", "begin", "restore_recipe"]
