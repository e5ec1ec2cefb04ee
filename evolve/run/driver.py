"""The loop of a run: plan, do what the plan asks for, record what came of it, and plan again.

There is no code to resume: the tree is folded from the journal, and planning continues from there.
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
from evolve.run.journal import Journal, utc_now
from evolve.run.observer import Observer
from evolve.run.steps import RunContext, StepInFlight, batch_size, begin, restore_recipe

__all__ = ["Driver", "restore_files"]

_LOG = logging.getLogger("evolve.run")
_POLL_S = 0.2


class Driver:
    """Drives one run to its end; the caller holds the lock of its folder and closes all parts."""

    def __init__(
        self, context: RunContext, journal: Journal, executor: Executor, observer: Observer, interrupts: Interrupts
    ) -> None:
        self._context = context
        self._journal = journal
        self._executor = executor
        self._observer = observer
        self._interrupts = interrupts
        self._in_flight: dict[str, StepInFlight] = {}
        self._deaths = 0

    @property
    def tree(self) -> FamilyTree:
        """The family tree as it is now."""
        return self._context.tree

    def run(self) -> RunStopped:
        """Plan and work until the run has stopped.

        Raises:
            RunError: The run cannot continue; it can be resumed.
            Interrupted: The user asked to stop; everything recorded is kept.
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
        restore_files(self._context)

    def record(self, event: Event) -> None:
        """Append an event to the journal, then tell the observers.

        The tree takes it first, because it refuses what contradicts it: nothing that cannot be folded may get into the
        journal. Where the journal cannot take it the run ends, and the next one folds the journal.
        """
        at = utc_now()
        self.tree.apply(event, at)
        self._journal.append(event, at)
        self._context.folder.write_tree(self.tree)
        _LOG.info("%s", event.model_dump_json(exclude={"config", "recipes", "data"}))
        self._observer.recorded(event, self.tree, at)
        if isinstance(event, CheckpointRemade):
            _restore_recipes(self._context)

    def _work(self, steps: tuple[Step, ...]) -> None:
        """Begin the steps that can begin, then wait for one outcome."""
        for step in steps:
            if len(self._in_flight) >= self._executor.capacity:
                break
            if any(_serves(other, step) for other in self._in_flight.values()):
                continue
            begun = begin(self._context, step)
            if isinstance(begun, StepInFlight):
                self._submit(begun)
            elif begun is not None:
                for event in begun:
                    self.record(event)
                return
        self._await_outcome()

    def _submit(self, step: StepInFlight) -> None:
        fault_point("step.before_call")
        self._in_flight[step.call.id] = step
        if step.makes is not None:
            self._context.making.add(step.makes)
        self._observer.working(step.call.id, "starting", 0, 1)
        self._executor.submit(step.call)

    def _await_outcome(self) -> None:
        while True:
            outcome = self._executor.wait(_POLL_S)
            if outcome is not None:
                break
            self._interrupts.check(abandon=self._may_be_abandoned())
        if isinstance(outcome, Failed) and outcome.cause == "died":
            self._interrupts.check()  # who ends this process may have ended the worker first
        fault_point("step.after_call")
        step = self._in_flight.pop(outcome.id)
        self._context.making.discard(step.makes or "")
        found = _finished(step, outcome) if isinstance(outcome, Done) else outcome
        if isinstance(found, Failed):
            self._fail(step, found)
            return
        if step.model is None:
            self._deaths = 0
        for event in found:
            self.record(event)

    def _may_be_abandoned(self) -> bool:
        """Return whether nothing is lost with the steps in flight: an evaluation resumes from its request cache."""
        return all(step.step == "evaluate" for step in self._in_flight.values())

    def _fail(self, step: StepInFlight, failure: Failed) -> None:
        """Count an attempt of the candidate; after the last one the candidate has failed."""
        _LOG.warning("%s: %s (%s)", step.call.id, failure.reason, failure.cause)
        if failure.cause == "disk":
            root = self._context.folder.root
            raise DiskError(f"{step.call.id}: {failure.reason}; make room, then run `evolve resume {root}`")
        attempts = self.tree.config.attempts
        if step.model is None:
            self._fail_run(step, failure, attempts)
            return
        if isinstance(failure.error, InputError):
            raise failure.error  # the user's input has changed during the run, which is not the candidate's fault
        model = self.tree.model(step.model)
        attempt = model.attempts.get(step.step, 0) + 1
        smaller = self._smaller_batch(step, failure)
        # What an engine refuses with a reason, it refuses again: only accidents are worth another attempt.
        if smaller is not None or (attempt < attempts and failure.cause != "error"):
            retried = {"model": model.name, "step": step.step, "reason": failure.reason, "attempt": attempt}
            self.record(StepRetried.model_validate({**retried, "batch_size": smaller}))
        elif model.kind == "foundation" or model.status == "evaluated":
            raise self._error(step, failure)
        else:
            self.record(
                ModelFailed.model_validate(
                    {"model": model.name, "step": step.step, "reason": failure.reason, "attempts": attempt}
                )
            )

    def _fail_run(self, step: StepInFlight, failure: Failed, attempts: int) -> None:
        self._deaths += 1
        if failure.cause == "error" or self._deaths >= attempts:
            raise self._error(step, failure)

    def _error(self, step: StepInFlight, failure: Failed) -> EvolveError:
        log = self._context.folder.log
        return failure.error or RunError(f"{step.call.id}: {failure.reason}; the log is {log}")

    def _smaller_batch(self, step: StepInFlight, failure: Failed) -> int | None:
        """Return half the batch where an evaluation ran out of memory, which costs no attempt; None where it is one."""
        size = batch_size(self.tree)
        if step.step != "evaluate" or failure.cause != "memory" or size == "auto":
            return None
        return size // 2 or None


def restore_files(context: RunContext) -> None:
    """Write again what follows from the journal: the configuration, the family tree and the recipes."""
    context.folder.write_config(context.folder.located_config(context.tree.config))
    context.folder.write_tree(context.tree)
    _restore_recipes(context)


def _restore_recipes(context: RunContext) -> None:
    for model in context.tree.models:
        if model.recipe is not None:
            restore_recipe(context, model)


def _finished(step: StepInFlight, outcome: Done) -> tuple[Event, ...] | Failed:
    """Put a result into place; what no record can hold, such as a score that is not finite, fails its candidate."""
    try:
        return step.finish(outcome.result)
    except EvolveError as error:
        return Failed(outcome.id, "error", str(error), error)
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))} = {first['input']}: {first['msg']}"
        return Failed(outcome.id, "error", f"its result is not valid ({problem})")
    except FileNotFoundError as error:
        return Failed(outcome.id, "bug", f"a file that it made is missing ({error.filename})")


def _serves(flying: StepInFlight, step: Step) -> bool:
    """Return whether a step is in flight already."""
    match step:
        case MergeStep(model):
            return flying.model == model and flying.step == "merge"
        case EvaluateStep(model):
            return flying.model == model and flying.step == "evaluate"
        case MeasureStep():
            return flying.step == "kinship"
