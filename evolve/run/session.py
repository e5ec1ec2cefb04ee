"""Starting, resuming and checking runs; the commands call this module."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from evolve.config import Config
from evolve.engines.protocols import Engines, Report
from evolve.errors import EvolveError, InputError, RunFolderError, unreadable
from evolve.lineage import (
    FamilyTree,
    InputsMoved,
    KinshipMeasured,
    RunContinued,
    RunStarted,
    RunStopped,
    SettingsChanged,
    StepRetried,
)
from evolve.run import inputs
from evolve.run.driver import Driver, recipes_are_current, restore_files
from evolve.run.durable import explained
from evolve.run.executors import Executor, LocalExecutor, Progress
from evolve.run.folder import RunFolder
from evolve.run.hashes import HashCache
from evolve.run.inputs.changes import Change
from evolve.run.inputs.fingerprint import Reporter
from evolve.run.interrupts import Interrupted, Interrupts
from evolve.run.journal import Entry, Journal, read_journal, tree_of
from evolve.run.links import refuse_links
from evolve.run.lock import driver_lock
from evolve.run.log import logging_to
from evolve.run.observer import Observer, Observers, ProgressFile
from evolve.run.steps import RunContext
from evolve.run.store import ScoreStore

__all__ = ["Findings", "Finished", "Session"]

_LOG = logging.getLogger("evolve.run")
ExecutorFactory = Callable[[Progress, str], Executor]
"""A function that makes an executor from a progress listener and the name of a device."""


@dataclass(frozen=True)
class Finished:
    """The end of a session.

    Attributes:
        worked: Whether any work was done in it.
        ignored: Keys of changed settings that do not continue a run that has stopped.
    """

    folder: RunFolder
    tree: FamilyTree
    stop: RunStopped
    worked: bool
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Findings:
    """The findings of `check`.

    Attributes:
        checked: The checked configuration.
        rehearsed: What was rehearsed; None if the rehearsal is turned off.
        timing: None unless it was requested and a foundation could be scored.
        unshared: Why the scores of a task cannot be shared with other runs, by task.
    """

    checked: inputs.Checked
    rehearsed: inputs.Rehearsed | None
    timing: inputs.Timing | None
    unshared: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Session:
    """A session of work on runs: starts, resumes or checks them.

    Attributes:
        force: Take over the lock of a driver on another host.
        executors: Makes the executor.
        rehearsal: Whether to rehearse evaluations and merges before a run begins.
    """

    engines: Engines
    observer: Observer
    force: bool = False
    executors: ExecutorFactory = field(default=LocalExecutor)
    rehearsal: bool = True

    def check(self, config: Config, run_dir: Path, fetch: inputs.Fetch, *, time: bool = False) -> Findings:
        """Check everything that can be checked before a run.

        Args:
            config: The configuration.
            run_dir: The folder of the run; nothing is written there.
            fetch: How the Hub may be used.
            time: Score a few documents to estimate the time of the run.

        Raises:
            InputError: An input is invalid; the message names it and the fix.
            RunError: The worker failed.
        """
        with _interruptible(), _readable(), self._executor(config, self.observer) as executor:
            located = inputs.locate_models(config, fetch)
            checked = inputs.check_inputs(located, self.engines, executor, complete=fetch.download)
            hashes, folder, rehearsed = HashCache(), RunFolder(run_dir.absolute()), None
            found = inputs.fingerprint_inputs(checked, hashes, _reporter(self.observer))
            if self.rehearsal:
                rehearsed = inputs.rehearse_found(found, folder, hashes, self.engines, executor)
            timing = inputs.time_one_batch(checked, self.engines, executor) if time else None
            return Findings(checked, rehearsed, timing, found.unshared)

    def run(self, config: Config, run_dir: Path) -> Finished:
        """Start the run of a configuration in a folder, or resume it where it was interrupted.

        A run that has recorded no score and cannot be resumed with this configuration is started anew.

        Raises:
            InputError: An input is invalid; nothing was changed.
            RunError: The run cannot continue.
            Interrupted: The user asked to stop.
        """
        folder = RunFolder.prepare(run_dir)
        if folder.has_begun():
            try:
                return self.resume(run_dir, config)
            except InputError as error:
                if isinstance(error, RunFolderError) or _has_scores(read_journal(folder.journal)):
                    raise
            self.observer.note(
                f"{run_dir}: the run there recorded no score, and its inputs were others; it starts anew"
            )
        return self._start(folder, config)

    def _start(self, folder: RunFolder, config: Config) -> Finished:
        with _interruptible(), explained(folder.root), self._running(folder, config) as (observers, executor):
            ready, hashes = self._rehearsed(folder, config, executor, observers)
            with _interrupts(executor, observers) as interrupts:  # a signal now waits for the first event
                folder.create()
                with driver_lock(folder.root, force=self.force), Journal(folder.journal) as journal:
                    if _has_scores(journal.entries):
                        raise RunFolderError(f"{folder.root}: another process has just begun a run there; resume that")
                    journal.clear()
                    context = RunContext(folder, FamilyTree(), self.engines, hashes)
                    with _driver(context, journal, executor, observers, interrupts) as driver:
                        folder.write_config(config)
                        driver.record(ready.start_event(folder))
                        for task, reason in ready.fingerprinted.unshared.items():
                            observers.note(f"scores of {task} are not shared with other runs: {reason}")
                        return _finish(driver, folder)

    def _rehearsed(
        self, folder: RunFolder, config: Config, executor: Executor, observer: Observer
    ) -> tuple[inputs.Ready, HashCache]:
        """Do all stages before the first event; return the inputs, and the hashes of their files."""
        with _readable():
            located = inputs.locate_models(config, inputs.Fetch())
            checked = inputs.check_inputs(located, self.engines, executor, complete=True)
            hashes = HashCache()
            found = inputs.fingerprint_inputs(checked, hashes, _reporter(observer), folder.portable)
        ready = inputs.prepare_models(found, self._preparer(folder, config, executor, hashes), self.engines)
        if self.rehearsal:
            observer.note(f"rehearsal: {inputs.rehearse_ready(ready, self.engines, executor)}")
        else:
            observer.note("no rehearsal (--no-rehearsal): an error of the engines may end the run later")
        return ready, hashes

    def resume(self, run_dir: Path, config: Config | None = None) -> Finished:
        """Resume the run in a folder, with another configuration if that changes no result.

        Raises:
            InputError: The configuration, a model or the data has changed since the run began; nothing was changed.
            RunError: The run cannot continue.
            Interrupted: The user asked to stop.
        """
        folder = RunFolder.open(run_dir)
        tree = folder.read_tree()
        refuse_links(folder.root, [model.name for model in tree.models])
        with _interruptible(), explained(folder.root):
            _, changes = _settings(tree, folder, config)
            if tree.stop is not None and not _continues(tree.stop, changes):
                self._restore(folder, tree)
                ignored = tuple(change.key for change in changes if change.effect == "none")
                return Finished(folder, tree, tree.stop, worked=False, ignored=ignored)
            with driver_lock(folder.root, force=self.force), Journal(folder.journal) as journal:
                return self._resume(folder, journal, config)

    def _resume(self, folder: RunFolder, journal: Journal, config: Config | None) -> Finished:
        """Resume under the lock; read the journal again, because it may have changed before the lock was held."""
        tree = tree_of(journal.entries, folder.journal)
        settings, changes = _settings(tree, folder, config)
        folder.make_folders()
        hashes = HashCache()
        with self._running(folder, settings) as (observers, executor):
            inputs.refuse_other_engines(tree)
            moved_reads = inputs.refuse_changed_data(tree, settings, folder, hashes)
            preparer = self._preparer(folder, settings, executor, hashes)
            moved = inputs.verify_models(tree, settings, folder, preparer, _reporter(observers))
            context = RunContext(folder, tree, self.engines, hashes)
            for name in inputs.replaced_templates(tree):
                observers.note(f"recipe {name} differs in this version of evolve; the run keeps the recorded one")
            with (
                _interrupts(executor, observers) as interrupts,
                _driver(context, journal, executor, observers, interrupts) as driver,
            ):
                if changes:
                    driver.record(inputs.settings_changed(changes, folder, settings))
                if moved or moved_reads or tree.root != str(folder.root):
                    driver.record(InputsMoved(paths=moved, root=str(folder.root), reads=moved_reads))
                if tree.stop is not None and tree.stop.reason == "failed":
                    driver.record(_retry_failed(tree))
                driver.restore_files()
                return _finish(driver, folder)

    def _restore(self, folder: RunFolder, tree: FamilyTree) -> None:
        """Restore the files of a finished run that were deleted, not written before a kill, or have moved."""
        context = RunContext(folder, tree, self.engines)
        if folder.is_complete(tree) and recipes_are_current(context):
            return
        with driver_lock(folder.root, force=self.force):
            folder.make_folders()
            restore_files(context)
            folder.tidy(finished=True)

    def _preparer(self, folder: RunFolder, config: Config, executor: Executor, hashes: HashCache) -> inputs.Preparer:
        return inputs.Preparer(
            folder.adapters, folder.converted, executor, hashes, trust_remote_code=config.trust_remote_code
        )

    @contextmanager
    def _executor(self, config: Config, observer: Observer) -> Iterator[Executor]:
        executor = self.executors(observer.working, config.device)
        try:
            yield executor
        finally:
            executor.close()

    @contextmanager
    def _running(self, folder: RunFolder, config: Config) -> Iterator[tuple[Observer, Executor]]:
        """Make the observers of a run, including the progress file, and the executor that reports to them."""
        with contextlib.closing(ProgressFile(folder.progress)) as progress:
            observers = Observers(self.observer, progress)
            with self._executor(config, observers) as executor:
                yield observers, executor


def _interrupts(executor: Executor, observer: Observer) -> Interrupts:
    return Interrupts(
        on_first=lambda: observer.note("stopping at the next safe point; press Ctrl-C again to stop now"),
        on_second=executor.abandon,
    )


@contextmanager
def _driver(
    context: RunContext, journal: Journal, executor: Executor, observer: Observer, interrupts: Interrupts
) -> Iterator[Driver]:
    """Make the driver with its log."""
    folder = context.folder
    folder.make_folders()
    folder.tidy()
    ScoreStore(folder.scores, folder.root).tidy()
    executor.redirect(folder.log, folder.staging)
    with logging_to(folder.log, _LOG):
        try:
            yield Driver(context, journal, executor, observer, interrupts)
        except EvolveError as error:
            _LOG.warning("the session ended: %s", error)
            raise


def _settings(tree: FamilyTree, folder: RunFolder, config: Config | None) -> tuple[Config, list[Change]]:
    """Return the configuration to resume with, and its differences from the recorded one."""
    if config is None:
        settings = folder.located_config(tree.config, tree.root)
    else:
        settings = inputs.with_recorded_recipes(tree, folder, inputs.with_recorded_sharing(tree, config))
    return settings, inputs.accepted_changes(tree, folder, settings)


def _continues(stop: RunStopped, changes: list[Change]) -> bool:
    """Return whether a stopped run can continue: it had failed, or the limit that stopped it was raised."""
    limits = {"budget": "strategy.max_generations", "saturated": "strategy.stop_at_kinship"}
    return stop.reason == "failed" or any(change.key == limits.get(stop.reason) for change in changes)


def _has_scores(entries: Sequence[Entry]) -> bool:
    """Return whether a journal holds a score or a merge; all else is repeated in minutes."""
    cheap = RunStarted | KinshipMeasured | StepRetried | SettingsChanged | InputsMoved
    return not all(isinstance(entry.event, cheap) for entry in entries)


def _retry_failed(tree: FamilyTree) -> RunContinued:
    failed = [model.name for model in tree.children_of(tree.generation) if model.status == "failed"]
    return RunContinued(reason=f"every child of generation {tree.generation} had failed", retried=tuple(failed))


def _finish(driver: Driver, folder: RunFolder) -> Finished:
    stop = driver.run()
    folder.tidy(finished=True)
    return Finished(folder, driver.tree, stop, worked=True)


def _reporter(observer: Observer) -> Reporter:
    """Return a function from the name of a model to the report of its fingerprint."""

    def report_on(name: str) -> Report:
        return lambda words, done, total: observer.working("inputs", f"{words} {name}", done, total)

    return report_on


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn a Ctrl-C while no driver handles signals into `Interrupted`; no recorded work is lost then."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(signal.SIGINT) from None


@contextmanager
def _readable() -> Iterator[None]:
    """Turn an OSError during the checks into an InputError, because these files are inputs of the user."""
    try:
        yield
    except OSError as error:
        raise InputError(unreadable(error)) from error
