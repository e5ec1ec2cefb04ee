"""The race of a child: the items of each rung, chosen by its parents' values, and the estimates from its own."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evolve.analysis import ItemSample
from evolve.engines.protocols import ITEMS_FILE, task_folder
from evolve.errors import RunFolderError
from evolve.lineage import Estimate, Model, Score
from evolve.run.items import read_items
from evolve.run.steps.base import RunContext

__all__ = ["Race", "find_race"]

_LOG = logging.getLogger("evolve.run")
Values = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class _TaskRace:
    """The items of one configured task, by lm-eval task: itself, or the members of a group.

    Attributes:
        samples: The child's items.
        weights: Weights of the lm-eval tasks in the score; they sum to 1.
    """

    samples: Mapping[str, ItemSample]
    weights: Mapping[str, float]


@dataclass(frozen=True)
class Race:
    """One rung of the race of a child."""

    rung: int
    share: float
    tasks: Mapping[str, _TaskRace]

    def items(self, task: str) -> dict[str, tuple[int, ...]]:
        """Return the ids of the items to answer by lm-eval task, for a configured task."""
        return {name: sample.chosen(self.share) for name, sample in self.tasks[task].samples.items()}

    def estimate(self, task: str, metric: str, folder: Path) -> Estimate:
        """Return the estimated score of a configured task.

        Args:
            task: The task.
            metric: Its metric.
            folder: The folder with the child's results of the task.

        Raises:
            RunFolderError: The values of items are missing or damaged.
        """
        race, path = self.tasks[task], folder / ITEMS_FILE
        values = read_items(path)
        try:
            found = {name: sample.estimate(self.share, values[name]) for name, sample in race.samples.items()}
        except KeyError as error:
            raise RunFolderError(f"{path}: has no value of {error}, which was asked") from None
        return Estimate(
            metric=metric,
            value=math.fsum(race.weights[name] * part.value for name, part in found.items()),
            stderr=math.hypot(*(race.weights[name] * part.stderr for name, part in found.items())),
            answered=sum(part.answered for part in found.values()),
            items=sum(part.items for part in found.values()),
            influence=max(race.weights[name] * part.influence for name, part in found.items()),
        )


def find_race(context: RunContext, model: Model, rung: int) -> Race | None:
    """Return a rung of the race of a child; None if the values of items that it needs are missing.

    Then the child is scored in full, and the log says why.
    """
    tree = context.tree
    racing = tree.config.evaluation.racing
    if racing is None:
        return None
    try:
        tasks = {task.task: _task_race(context, model, task.task) for task in tree.config.evaluation.tasks}
    except RunFolderError as error:
        _LOG.warning("%s: is scored in full and not on a part of the items: %s", model.name, error)
        return None
    return Race(rung, racing.rungs[rung - 1], tasks)


def _task_race(context: RunContext, model: Model, task: str) -> _TaskRace:
    """Return the race of a child in one task; a foundation, which was scored in full, tells all its items."""
    names = [entry.name for entry in context.tree.origin.foundations]
    complete = next((name for name in names if _path(context, name, task).is_file()), names[0])
    known = _values(context, complete, task)
    first, second = (_values(context, name, task) for name in model.parents)
    seed = f"{context.tree.config.seed}\0{model.name}\0{task}"
    samples = {
        name: ItemSample(sorted(items), (first.get(name, {}), second.get(name, {})), f"{seed}\0{name}")
        for name, items in known.items()
    }
    score = context.tree.model(complete).scores[task]
    return _TaskRace(samples, _weights(known, score, task, by_size=task not in context.tree.origin.equal_weights))


def _path(context: RunContext, model: str, task: str) -> Path:
    return context.folder.evaluation(model) / task_folder(task) / ITEMS_FILE


def _values(context: RunContext, model: str, task: str) -> Values:
    return read_items(_path(context, model, task))


def _weights(known: Values, score: Score, task: str, *, by_size: bool) -> dict[str, float]:
    """Return the weights with which the means over the items of lm-eval tasks add up to a score.

    Args:
        known: All values of a model that was scored in full.
        score: Its score, which is checked.
        task: The configured task.
        by_size: Whether the score of a group is the mean over all items; otherwise it is the mean of its tasks' means.
    """
    sizes = {name: len(items) if by_size else 1 for name, items in known.items()}
    weights = {name: size / sum(sizes.values()) for name, size in sizes.items()}
    total = math.fsum(weights[name] * math.fsum(items.values()) / len(items) for name, items in known.items())
    if math.isclose(total, score.value, rel_tol=1e-6, abs_tol=1e-9):
        return weights
    raise RunFolderError(f"the score of {task} is not the mean of the values of its items")
