"""Starting, resuming and looking at runs: what the commands call."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from evolve.config import Config
from evolve.engines.protocols import Engines, Report, TaskFacts
from evolve.errors import ConfigError, ModelError, RunFolderError
from evolve.lineage import FamilyTree, RunStopped, SettingsChanged, fold
from evolve.run.changes import Change, changes_between
from evolve.run.driver import Driver
from evolve.run.durable import remove, replace_json
from evolve.run.executors import Executor, LocalExecutor
from evolve.run.folder import RunFolder
from evolve.run.interrupts import Interrupts
from evolve.run.journal import Journal
from evolve.run.lock import driver_lock
from evolve.run.observer import Observer
from evolve.run.preflight import Preflight, hash_data, identity_of, inspect_engines, look_at_models
from evolve.run.steps import Workshop

__all__ = ["Finished", "Session", "check"]

_LOG = logging.getLogger("evolve.run")
_IDENTITIES = "identities.json"
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
    found = look_at_models(config)
    _identities(found, observer)
    with _executor(executors, observer) as executor:
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
        if folder.journal.exists() and folder.journal.stat().st_size:
            return self.resume(run_dir, config)
        found = look_at_models(config)
        identities = _identities(found, self.observer)
        with _executor(self.executors, self.observer) as executor:
            inspect_engines(found, self.engines, executor)
            folder.create()
            with driver_lock(folder.root, force=self.force), Journal(folder.journal) as journal:
                if journal.events:
                    raise RunFolderError(f"{run_dir}: another process has just begun a run there; resume that")
                with self._driver(folder, FamilyTree(), journal, executor) as driver:
                    folder.write_config(config)
                    driver.record(found.start_event(identities))
                    return Finished(folder, driver.tree, driver.run(), worked=True)

    def resume(self, run_dir: Path, config: Config | None = None) -> Finished:
        """Go on with the run of a folder, with another configuration where that changes no result.

        Raises:
            InputError: The configuration, a model or the data has changed since the run began; nothing was changed.
            RunError: The run cannot go on.
            Interrupted: The user asked to stop.
        """
        folder = RunFolder.open(run_dir)
        tree = folder.read_tree()
        changes = changes_between(tree.config, config) if config is not None else []
        _refuse_changes(folder, changes)
        if tree.stop is not None and not _reopens(tree.stop, changes):
            return Finished(folder, tree, tree.stop, worked=False)
        folder.create()
        with driver_lock(folder.root, force=self.force), Journal(folder.journal) as journal:
            tree = fold(journal.events)
            _refuse_changed_inputs(tree, folder, self.observer)
            with (
                _executor(self.executors, self.observer) as executor,
                self._driver(folder, tree, journal, executor) as driver,
            ):
                if changes and config is not None:
                    driver.record(
                        SettingsChanged(
                            changes={change.key: (change.then, change.now) for change in changes},
                            config=config.model_dump(mode="json"),
                        )
                    )
                driver.restore_files()
                return Finished(folder, tree, driver.run(), worked=True)

    @contextmanager
    def _driver(self, folder: RunFolder, tree: FamilyTree, journal: Journal, executor: Executor) -> Iterator[Driver]:
        """The driver with its log and its signals."""
        _clear_staging(folder)
        executor.log_to(folder.log)
        interrupts = Interrupts(
            on_first=lambda: self.observer.note("stopping at the next safe moment; again to stop at once"),
            on_second=executor.abandon,
        )
        shop = Workshop(folder, tree, self.engines)
        with _logging_to(folder.log), interrupts:
            yield Driver(shop, journal, executor, self.observer, interrupts)


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)
    _LOG.propagate = False
    try:
        yield
    finally:
        _LOG.removeHandler(handler)
        handler.close()


def _clear_staging(folder: RunFolder) -> None:
    """Unfinished work of an earlier driver goes, but for the answers that an evaluation can go on from."""
    for path in folder.staging.iterdir():
        if not path.name.startswith("requests-") and path.name != _IDENTITIES:
            remove(path)
    for parent in (folder.root / "models", folder.root / "evals", folder.root / "recipes", folder.root):
        for path in parent.glob(".*.gone"):
            remove(path)
        for path in parent.glob(".*.tmp"):
            remove(path)


def _refuse_changes(folder: RunFolder, changes: list[Change]) -> None:
    harmful = [change for change in changes if not change.harmless]
    if not harmful:
        return
    rows = [("key", "then", "now"), *((c.key, json.dumps(c.then), json.dumps(c.now)) for c in harmful)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    table = "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )
    raise ConfigError(
        f"{folder.root}: holds a run of another configuration, whose results these changes would alter; give another "
        f"--run-dir, or take them back:\n{table}"
    )


def _reopens(stop: RunStopped, changes: list[Change]) -> bool:
    return stop.reason == "budget" and any(change.key == "strategy.max_generations" for change in changes)


def _refuse_changed_inputs(tree: FamilyTree, folder: RunFolder, observer: Observer) -> None:
    """Foundations, base and local data must be what they were when the run began."""
    cache = folder.staging / _IDENTITIES
    for entry in (tree.origin.base, *tree.origin.foundations):
        if _remembered_identity(Path(entry.path), cache, _reporter(observer, entry.name)) != entry.identity:
            raise ModelError(
                f"{entry.path}: the files of {entry.name} have changed since the run began; restore them, or start a "
                "new run"
            )
    if hash_data(tree.config) != tree.origin.data:
        raise ConfigError(
            f"{folder.root}: the files of evaluation.datasets or task_dirs have changed since the run began; restore "
            "them, or start a new run"
        )


def _identities(found: Preflight, observer: Observer) -> dict[str, str]:
    """Identities of the base and the foundations, no two of which may be equal."""
    identities: dict[str, str] = {}
    for name, source in found.sources.items():
        identity = identity_of(source.path, _reporter(observer, name))
        for other, known in identities.items():
            if known == identity:
                raise ModelError(
                    f"foundation_models.{name}: has the same files as {other} ({source.path}); list a model once, and "
                    "the base model only as base_model"
                )
        identities[name] = identity
    return identities


def _reporter(observer: Observer, name: str) -> Report:
    def report(words: str, done: int, total: int) -> None:
        observer.working("inputs", f"{words} {name}", done, total)

    return report


def _remembered_identity(folder: Path, cache: Path, report: Report) -> str:
    """`identity_of`, remembered in a file by names, sizes and times, so that resuming a run reads no weights again."""
    files = sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in folder.iterdir() if p.is_file())
    key = json.dumps([str(folder), files])
    try:
        known = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if key not in known:
        known[key] = identity_of(folder, report)
        replace_json(cache, known)
    return str(known[key])
