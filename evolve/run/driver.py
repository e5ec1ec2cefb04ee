"""The loop of a run: plan, do what the plan asks for, write down what came of it, and plan again.

There is no code to resume: the tree is folded from the journal, and the plan goes on from there.
"""

from __future__ import annotations

import logging

from pydantic import ValidationError

from evolve.errors import DiskError, EvolveError, InputError, RunError
from evolve.lineage import (
    CheckpointRemade,
    EvaluateStep,
    Event,
    FamilyTree,
    MeasureStep,
    MergeStep,
    ModelFailed,
    RunStopped,
    Step,
    StepRetried,
    Work,
    plan,
)
from evolve.run.executors import Done, Executor, Failed
from evolve.run.faults import fault_point
from evolve.run.interrupts import Interrupts
from evolve.run.journal import Journal
from evolve.run.observer import Observer
from evolve.run.steps import Task, Workshop, batch_size, begin, restore_recipe

__all__ = ["Driver", "restore_files"]

_LOG = logging.getLogger("evolve.run")
_POLL_S = 0.2


class Driver:
    """Drives one run to its end; the caller holds the lock of its folder and owns all parts."""

    def __init__(
        self, shop: Workshop, journal: Journal, executor: Executor, observer: Observer, interrupts: Interrupts
    ) -> None:
        self._shop = shop
        self._journal = journal
        self._executor = executor
        self._observer = observer
        self._interrupts = interrupts
        self._in_flight: dict[str, Task] = {}
        self._deaths = 0

    @property
    def tree(self) -> FamilyTree:
        """The tree as it stands."""
        return self._shop.tree

    def run(self) -> RunStopped:
        """Go on until the run is over.

        Raises:
            RunError: The run cannot go on.
            Interrupted: The user asked to stop; what was recorded stays.
        """
        while True:
            self._interrupts.check()
            decision = plan(self.tree)
            if isinstance(decision, RunStopped):
                if self.tree.stop is None:
                    self.record(decision)
                return decision
            if isinstance(decision, Work):
                self._work(decision.steps)
            else:
                self.record(decision)

    def restore_files(self) -> None:
        """Write again what follows from the journal: the configuration, the family tree and the recipes."""
        restore_files(self._shop)

    def record(self, event: Event) -> None:
        """Write an event down, then let whoever watches know.

        The tree takes it first, because it refuses what contradicts it: nothing that cannot be folded may get into the
        journal. Where the journal cannot take it the run ends, and the next one folds the journal.
        """
        self.tree.apply(event)
        self._journal.append(event)
        self._shop.folder.write_tree(self.tree)
        _LOG.info("%s", event.model_dump_json(exclude={"config", "recipes", "data"}))
        self._observer.recorded(event, self.tree)
        if isinstance(event, CheckpointRemade):
            _restore_recipes(self._shop)

    def _work(self, steps: tuple[Step, ...]) -> None:
        """Begin what can be begun, then wait for one outcome."""
        for step in steps:
            if len(self._in_flight) >= self._executor.capacity:
                break
            if any(_serves(task, step) for task in self._in_flight.values()):
                continue
            begun = begin(self._shop, step)
            if isinstance(begun, Task):
                self._submit(begun)
            elif begun is not None:
                for event in begun:
                    self.record(event)
                return
        self._await_outcome()

    def _submit(self, task: Task) -> None:
        fault_point("step.before_call")
        self._in_flight[task.call.id] = task
        if task.makes is not None:
            self._shop.making.add(task.makes)
        self._observer.working(task.call.id, "starting", 0, 1)
        self._executor.submit(task.call)

    def _await_outcome(self) -> None:
        while True:
            outcome = self._executor.wait(_POLL_S)
            if outcome is not None:
                break
            self._interrupts.check(abandon=self._may_be_abandoned())
        if isinstance(outcome, Failed) and outcome.cause == "died":
            self._interrupts.check()  # who ends this process may have ended the worker first
        fault_point("step.after_call")
        task = self._in_flight.pop(outcome.id)
        self._shop.making.discard(task.makes or "")
        found = _finished(task, outcome) if isinstance(outcome, Done) else outcome
        if isinstance(found, Failed):
            self._fail(task, found)
            return
        if task.model is None:
            self._deaths = 0
        for event in found:
            self.record(event)

    def _may_be_abandoned(self) -> bool:
        """An evaluation goes on from its request cache; a merge or a kinship is short and is waited for."""
        return all(task.step == "evaluate" for task in self._in_flight.values())

    def _fail(self, task: Task, failure: Failed) -> None:
        """A failure costs an attempt of its candidate; after the last one the candidate has failed."""
        _LOG.warning("%s: %s (%s)", task.call.id, failure.reason, failure.cause)
        if failure.cause == "disk":
            raise DiskError(
                f"{task.call.id}: {failure.reason}; make room, then go on with `evolve resume {self._shop.folder.root}`"
            )
        attempts = self.tree.config.attempts
        if task.model is None:
            self._fail_run(task, failure, attempts)
            return
        if isinstance(failure.error, InputError):
            raise failure.error  # what the user gave has changed under the run: no fault of the candidate
        model = self.tree.model(task.model)
        attempt = model.attempts.get(task.step, 0) + 1
        smaller = self._smaller_batch(task, failure)
        # What an engine refuses with reasons, it refuses again: only accidents are worth another attempt.
        if smaller is not None or (attempt < attempts and failure.cause != "error"):
            retried = {"model": model.name, "step": task.step, "reason": failure.reason, "attempt": attempt}
            self.record(StepRetried.model_validate({**retried, "batch_size": smaller}))
        elif model.kind == "foundation" or model.status == "evaluated":
            raise failure.error or RunError(f"{task.call.id}: {failure.reason}; the log is {self._shop.folder.log}")
        else:
            self.record(
                ModelFailed.model_validate(
                    {"model": model.name, "step": task.step, "reason": failure.reason, "attempts": attempt}
                )
            )

    def _fail_run(self, task: Task, failure: Failed, attempts: int) -> None:
        self._deaths += 1
        if failure.cause == "error" or self._deaths >= attempts:
            error: EvolveError = failure.error or RunError(
                f"{task.call.id}: {failure.reason}; the log is {self._shop.folder.log}"
            )
            raise error

    def _smaller_batch(self, task: Task, failure: Failed) -> int | None:
        """Half the batch where an evaluation ran out of memory, which costs no attempt; None for a batch of one."""
        if task.step != "evaluate" or failure.cause != "memory":
            return None
        return batch_size(self.tree) // 2 or None


def restore_files(shop: Workshop) -> None:
    """Write again what follows from the journal: the configuration, the family tree and the recipes."""
    shop.folder.write_config(shop.tree.config)
    shop.folder.write_tree(shop.tree)
    _restore_recipes(shop)


def _restore_recipes(shop: Workshop) -> None:
    for model in shop.tree.models:
        if model.recipe is not None:
            restore_recipe(shop, model)


def _finished(task: Task, outcome: Done) -> tuple[Event, ...] | Failed:
    """Put a result into place; what no record can hold, such as a score that is not finite, fails its candidate."""
    try:
        return task.finish(outcome.result)
    except EvolveError as error:
        return Failed(outcome.id, "error", str(error), error)
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))} = {first['input']}: {first['msg']}"
        return Failed(outcome.id, "error", f"its result is not valid ({problem})")
    except FileNotFoundError as error:
        return Failed(outcome.id, "bug", f"what it made is gone ({error.filename})")


def _serves(task: Task, step: Step) -> bool:
    match step:
        case MergeStep(model):
            return task.model == model and task.step == "merge"
        case EvaluateStep(model):
            return task.model == model and task.step == "evaluate"
        case MeasureStep():
            return task.step == "kinship"
