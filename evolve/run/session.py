"""Starting, resuming and looking at runs: what the commands call."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from evolve.config import Config
from evolve.engines.protocols import Engines, TaskFacts
from evolve.errors import InputError, RunFolderError
from evolve.lineage import FamilyTree, RunStopped, SettingsChanged
from evolve.run.changes import Change
from evolve.run.derived import DerivedCache
from evolve.run.driver import Driver, restore_files
from evolve.run.durable import explained
from evolve.run.executors import Executor, LocalExecutor
from evolve.run.folder import RunFolder
from evolve.run.foundations import restore_made
from evolve.run.inputs import accepted_changes, identities_of, refuse_changed_inputs, refuse_twins, remember
from evolve.run.interrupts import Interrupted, Interrupts
from evolve.run.journal import Journal, tree_of
from evolve.run.lock import driver_lock
from evolve.run.observer import Observer
from evolve.run.preflight import Preflight, inspect_engines, look_at_models, with_models_made
from evolve.run.steps import Workshop
from evolve.run.store import ScoreStore

__all__ = ["Finished", "Session", "check"]

_LOG = logging.getLogger("evolve.run")
ExecutorFactory = Callable[[Observer], Executor]


def _local(observer: Observer) -> Executor:
    return LocalExecutor(observer.working)


@contextmanager
def _executor(make: ExecutorFactory, observer: Observer) -> Iterator[Executor]:
    executor = make(observer)
    try:
        yield executor
    finally:
        executor.close()


@dataclass(frozen=True)
class Finished:
    """How a session ended: the tree, and whether any work was done in it."""

    folder: RunFolder
    tree: FamilyTree
    stop: RunStopped
    worked: bool


def check(
    config: Config, engines: Engines, observer: Observer, executors: ExecutorFactory = _local
) -> tuple[Preflight, Mapping[str, TaskFacts]]:
    """All checks that come before the work; raises `InputError` with the mend where something is wrong."""
    with _told(), _readable():
        found = look_at_models(config, partly=True)
        identities_of(found, observer)
    with _told(), _executor(executors, observer) as executor:
        return found, inspect_engines(found, engines, executor)


@dataclass
class Session:
    """Drives the run of one folder.

    Attributes:
        force: Take over from a driver on another host.
        executors: Makes the executor, given the log and the observer.
    """

    engines: Engines
    observer: Observer
    force: bool = False
    executors: ExecutorFactory = field(default=_local)

    def run(self, config: Config, run_dir: Path) -> Finished:
        """Start the run of a configuration in a folder, or go on with it where it was interrupted.

        Raises:
            InputError: Something given is wrong; nothing was changed.
            RunError: The run cannot go on.
            Interrupted: The user asked to stop.
        """
        folder = RunFolder.prepare(run_dir)
        if folder.has_begun():
            return self.resume(run_dir, config)
        with _told(), explained(folder.root):
            with _readable():
                found = look_at_models(config)
                identities = identities_of(found, self.observer)
            with _executor(self.executors, self.observer) as executor:
                inspect_engines(found, self.engines, executor)
                found, identities = self._made(found, identities, folder, executor)
                folder.create()
                with driver_lock(folder.root, force=self.force), Journal(folder.journal) as journal:
                    if journal.events:
                        raise RunFolderError(f"{run_dir}: another process has just begun a run there; resume that")
                    with self._driver(folder, FamilyTree(), journal, executor) as driver:
                        remember(found, identities, folder)
                        folder.write_config(config)
                        driver.record(found.start_event(identities))
                        return _finish(folder, driver)

    def _made(
        self, found: Preflight, identities: dict[str, str], folder: RunFolder, executor: Executor
    ) -> tuple[Preflight, dict[str, str]]:
        """Make what must be made of the models; what only then can be known of them is checked then."""
        adapters, converted = DerivedCache(folder.adapters, executor), DerivedCache(folder.converted, executor)
        ready, identities = with_models_made(found, identities, adapters=adapters, converted=converted)
        refuse_twins(ready, identities)
        if found.pickled:
            inspect_engines(ready, self.engines, executor)
        return ready, identities

    def resume(self, run_dir: Path, config: Config | None = None) -> Finished:
        """Go on with the run of a folder, with another configuration where that changes no result.

        Raises:
            InputError: The configuration, a model or the data has changed since the run began; nothing was changed.
            RunError: The run cannot go on.
            Interrupted: The user asked to stop.
        """
        folder = RunFolder.open(run_dir)
        tree = folder.read_tree()
        changes = accepted_changes(tree, folder, config) if config is not None else []
        with _told(), explained(folder.root):
            if tree.stop is not None and not _reopens(tree.stop, changes):
                self._restore(folder, tree)
                return Finished(folder, tree, tree.stop, worked=False)
            with driver_lock(folder.root, force=self.force), Journal(folder.journal) as journal:
                return self._go_on(folder, journal, config)

    def _go_on(self, folder: RunFolder, journal: Journal, config: Config | None) -> Finished:
        """Resume under the lock; what was read before it may have changed."""
        tree = tree_of(journal.events, folder.journal)
        changes = accepted_changes(tree, folder, config) if config is not None else []
        folder.furnish()
        with _executor(self.executors, self.observer) as executor:
            restore_made(tree, executor)
            refuse_changed_inputs(tree, folder, self.observer)
            with self._driver(folder, tree, journal, executor) as driver:
                if changes and config is not None:
                    driver.record(
                        SettingsChanged(
                            changes={change.key: (change.then, change.now) for change in changes},
                            config=config.model_dump(mode="json"),
                        )
                    )
                driver.restore_files()
                return _finish(folder, driver)

    def _restore(self, folder: RunFolder, tree: FamilyTree) -> None:
        """Complete a finished run's folder: a file was deleted, or the driver was killed after the last event."""
        if folder.is_complete(tree):
            return
        with driver_lock(folder.root, force=self.force):
            folder.furnish()
            restore_files(Workshop(folder, tree, self.engines))
            folder.tidy(finished=True)

    @contextmanager
    def _driver(self, folder: RunFolder, tree: FamilyTree, journal: Journal, executor: Executor) -> Iterator[Driver]:
        """The driver with its log and its signals."""
        folder.furnish()
        folder.tidy()
        ScoreStore(folder.scores, folder.root).tidy()
        executor.settle(folder.log, folder.staging)
        interrupts = Interrupts(
            on_first=lambda: self.observer.note("stopping at the next safe moment; again to stop at once"),
            on_second=executor.abandon,
        )
        shop = Workshop(folder, tree, self.engines)
        with _logging_to(folder.log), interrupts:
            yield Driver(shop, journal, executor, self.observer, interrupts)


def _finish(folder: RunFolder, driver: Driver) -> Finished:
    stop = driver.run()
    folder.tidy(finished=True)
    return Finished(folder, driver.tree, stop, worked=True)


@contextmanager
def _told() -> Iterator[None]:
    """Ctrl-C before or after the driver listens: there is nothing under way that could be lost."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(signal.SIGINT) from None


@contextmanager
def _readable() -> Iterator[None]:
    """What cannot be read before the run has begun was given by the user."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); make it readable") from error


class _Log(logging.FileHandler):
    """A log that a full disk silences; the run itself says that the disk is full."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Pass over it."""

    def close(self) -> None:
        """Close the file, whatever of it could not be written."""
        with contextlib.suppress(OSError):
            super().close()


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    handler = _Log(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)
    _LOG.propagate = False
    try:
        yield
    finally:
        _LOG.removeHandler(handler)
        handler.close()


def _reopens(stop: RunStopped, changes: list[Change]) -> bool:
    return stop.reason == "budget" and any(change.key == "strategy.max_generations" for change in changes)
