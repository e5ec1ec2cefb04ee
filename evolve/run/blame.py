"""Which key of a configuration an engine's complaint is about, so that a message can say what to mend where."""

from __future__ import annotations

from collections.abc import Mapping

from evolve.config import Config
from evolve.engines.protocols import TaskFacts
from evolve.errors import RecipeError, TaskError

__all__ = ["one_line", "recipe_blamed", "refuse_losses", "task_blamed"]


def recipe_blamed(name: str, error: RecipeError) -> RecipeError:
    """The complaint about a recipe on one line, with the key and the recipe's name or path."""
    return RecipeError(f"merge.recipe = {name}: {one_line(error)}")


def task_blamed(config: Config, error: TaskError) -> TaskError:
    """The complaint about the evaluation on one line, with the key of the task that it names."""
    words = " ".join(str(error).split()).removeprefix("evaluation: ")
    for number, task in enumerate(config.evaluation.tasks):
        if f"'{task.task}'" in words:
            value = f"{{task: {task.task}, metric: '{task.metric}'}}"
            return TaskError(f"evaluation.tasks.{number} = {value}: {words}")
    return TaskError(words if words.startswith("evaluation.") else f"evaluation: {words}")


def refuse_losses(config: Config, facts: Mapping[str, TaskFacts]) -> None:
    """In the average more is better, so a metric of which less is better has a place in it only if that is said.

    Raises:
        TaskError: The configuration and lm-eval disagree on which direction of a metric is better.
    """
    for number, task in enumerate(config.evaluation.tasks):
        key = f"evaluation.tasks.{number}"
        if not facts[task.task].higher_is_better and task.higher_is_better is not False:
            raise TaskError(
                f"{key}.metric = {task.metric}: less of it is better at task '{task.task}', but in the average more is "
                f"better; choose another metric, or set {key}.higher_is_better to false, so that it counts with a "
                "minus sign"
            )
        if facts[task.task].higher_is_better and task.higher_is_better is False:
            raise TaskError(
                f"{key}.higher_is_better = false: more of {task.metric} is better at task '{task.task}'; remove it"
            )


def one_line(error: RecipeError) -> RecipeError:
    """The complaint without the line breaks that mergekit and YAML put into theirs."""
    return RecipeError(" ".join(str(error).split()))
