"""The loop of a run: plan, do the planned steps, record their outcome, and plan again.

Resuming needs no separate code: the tree is rebuilt from the journal, and planning continues from it.
"""

from __future__ import annotations

import logging
import time

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
from evolve.run.steps import (
    RunContext,
    StepInFlight,
    Waiting,
    begin,
    has_current_recipe,
    refuse_changes,
    restore_recipe,
)

__all__ = ["Driver", "recipes_are_current", "restore_files"]

_LOG = logging.getLogger("evolve.run")

_MOST_ROWS = 64
"""Most rows of a batch of lm-eval's batch size `auto`, unless a model argument says otherwise."""
_POLL_S = 0.2
_WAIT_S = 1.0  # between two looks at what another run does


class Driver:
    """The driver of one run; the caller holds the lock of the run folder and closes all parts."""

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
        self._noted: set[str] = set()

    @property
    def tree(self) -> FamilyTree:
        """The current family tree."""
        return self._context.tree

    def run(self) -> RunStopped:
        """Plan and work until the run has stopped.

        Raises:
            RunError: The run cannot continue; it can be resumed.
            InputsChangedError: A file that the run reads has changed; it can be resumed when the file is restored.
            Interrupted: The user asked to stop; everything recorded is kept.
        """
        try:
            return self._run()
        finally:
            for step in self._in_flight.values():
                step.release()

    def _run(self) -> RunStopped:
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
        """Rewrite the files that follow from the journal: the configuration, the family tree and the recipes."""
        restore_files(self._context)

    def record(self, event: Event) -> None:
        """Append an event to the journal, then notify the observers.

        The tree applies the event first and rejects a contradiction, so that the journal holds only valid events. If
        the journal cannot be written, the run ends, and resuming rebuilds the tree from the journal.
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
        """Begin as many steps as the executor can take, then wait for one outcome."""
        for step in steps:
            if len(self._in_flight) >= self._executor.capacity:
                break
            if any(_is_same(other, step) for other in self._in_flight.values()):
                continue
            begun = begin(self._context, step)
            if isinstance(begun, StepInFlight):
                self._submit(begun)
            elif isinstance(begun, tuple):
                for event in begun:
                    self.record(event)
                return
            elif isinstance(begun, Waiting) and begun.words not in self._noted:
                self._noted.add(begun.words)
                self._observer.note(begun.words)
        if self._in_flight:
            self._await_outcome()
        else:
            self._wait_for_another_run()

    def _wait_for_another_run(self) -> None:
        end = time.monotonic() + _WAIT_S
        while time.monotonic() < end:
            self._interrupts.check()
            time.sleep(_POLL_S)

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
            self._interrupts.check()  # a signal that ends this process may have ended the worker first
        fault_point("step.after_call")
        step = self._in_flight.pop(outcome.id)
        self._context.making.discard(step.makes or "")
        try:
            refuse_changes(self._context, step)
            result = _finished(step, outcome) if isinstance(outcome, Done) else outcome
        finally:
            step.release()
        if isinstance(result, Failed):
            self._fail(step, result)
            return
        if step.model is None:
            self._deaths = 0
        for event in result:
            self.record(event)

    def _may_be_abandoned(self) -> bool:
        """Return whether the steps in flight can be abandoned: an evaluation resumes from its request cache."""
        return all(step.step == "evaluate" for step in self._in_flight.values())

    def _fail(self, step: StepInFlight, failure: Failed) -> None:
        """Count a failed attempt of the candidate; after the last attempt, record the candidate as failed."""
        _LOG.warning("%s: %s (%s)", step.call.id, failure.reason, failure.cause)
        if failure.cause == "disk":
            root = self._context.folder.root
            raise DiskError(f"{step.call.id}: {failure.reason}, then run `evolve resume {root}`")
        attempts = self.tree.config.attempts
        if step.model is None:
            self._fail_run(step, failure, attempts)
            return
        if isinstance(failure.error, InputError):
            raise failure.error  # the input has changed during the run: the candidate is not to blame
        model = self.tree.model(step.model)
        attempt = model.attempts.get(step.step, 0) + 1
        smaller = self._smaller_batch(step, failure)
        # An engine that rejects a candidate would reject it again, so only other failures are retried.
        if smaller is not None or (attempt < attempts and failure.cause != "error"):
            retried = {"model": model.name, "step": step.step, "reason": failure.reason, "attempt": attempt}
            self.record(StepRetried.model_validate({**retried, "batch_size": smaller}))
        elif model.kind == "foundation" or model.status in {"evaluated", "dropped"}:
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
        """Return half the batch size after an evaluation ran out of memory; None if it cannot be halved."""
        if step.step != "evaluate" or failure.cause != "memory":
            return None
        # An evaluation that failed does not say which size `auto` found.
        size = self.tree.batch_size
        return (_MOST_ROWS if size == "auto" else size) // 2 or None


def restore_files(context: RunContext) -> None:
    """Rewrite the files that follow from the journal: the configuration, the family tree and the recipes."""
    context.folder.write_config(context.folder.located_config(context.tree.config, context.tree.root))
    context.folder.write_tree(context.tree)
    _restore_recipes(context)


def recipes_are_current(context: RunContext) -> bool:
    """Return whether the recipes have the present paths of their models."""
    return all(has_current_recipe(context, model) for model in context.tree.models if model.recipe is not None)


def _restore_recipes(context: RunContext) -> None:
    for model in context.tree.models:
        if model.recipe is not None:
            restore_recipe(context, model)


def _finished(step: StepInFlight, outcome: Done) -> tuple[Event, ...] | Failed:
    """Publish a result; a result that no record can hold, such as a score that is not finite, is a failure."""
    try:
        return step.finish(outcome.result)
    except EvolveError as error:
        return Failed(outcome.id, "error", str(error), error)
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))} = {first['input']}: {first['msg']}"
        return Failed(outcome.id, "error", f"its result is not valid ({problem})")
    except FileNotFoundError as error:
        return Failed(outcome.id, "bug", f"one of its output files is missing ({error.filename})")


def _is_same(flying: StepInFlight, step: Step) -> bool:
    """Return whether a step in flight is the given step."""
    match step:
        case MergeStep(model):
            return flying.model == model and flying.step == "merge"
        case EvaluateStep(model):
            return flying.model == model and flying.step == "evaluate"
        case MeasureStep():
            return flying.step == "kinship"
