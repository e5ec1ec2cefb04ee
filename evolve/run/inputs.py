"""Whether what a run reads is still what it was when the run began: models, recipe templates and data."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evolve.config import Config
from evolve.engines import merging
from evolve.engines.protocols import Report
from evolve.errors import ConfigError, ModelError, RecipeError
from evolve.lineage import FamilyTree
from evolve.run.changes import Change, changes_between
from evolve.run.durable import replace_json
from evolve.run.folder import RunFolder
from evolve.run.foundations import content_of, key_of
from evolve.run.identity import hash_data, identity_of
from evolve.run.observer import Observer
from evolve.run.preflight import Preflight

__all__ = ["accepted_changes", "identities_of", "refuse_changed_inputs", "refuse_twins", "remember"]


def accepted_changes(tree: FamilyTree, folder: RunFolder, config: Config) -> list[Change]:
    """What differs in a configuration from that of the run, all of it harmless.

    Raises:
        ConfigError: A change would alter results; the message has a table of them.
        RecipeError: A recipe template has another text than when the run began, or is gone.
    """
    changes = changes_between(tree.config, config)
    harmful = [change for change in changes if not change.harmless]
    if harmful:
        raise ConfigError(
            f"{folder.root}: holds a run of another configuration, whose results these changes would alter; give "
            f"another --run-dir, or take them back:\n{_table(harmful)}"
        )
    for name in config.merge.recipes:
        if merging.load_template(name).text != tree.origin.recipes[name]:
            raise RecipeError(
                f"merge.recipe = {name}: the template's text has changed since the run in {folder.root} began; restore "
                f"it, give another --run-dir, or go on with the old text by `evolve resume {folder.root}`"
            )
    return changes


def _table(changes: list[Change]) -> str:
    rows = [("key", "then", "now"), *((c.key, json.dumps(c.then), json.dumps(c.now)) for c in changes)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def refuse_changed_inputs(tree: FamilyTree, folder: RunFolder, observer: Observer) -> None:
    """Foundations, base and local data must be what they were when the run began.

    Raises:
        ModelError: A model has changed or is gone.
        ConfigError: A file that evaluations read has changed or is gone, or another engine is installed.
    """
    _refuse_other_engines(tree)
    known = _Remembered(folder.identities)
    for entry in (tree.origin.base, *tree.origin.foundations):
        path = Path(entry.path)
        if not path.is_dir():
            raise ModelError(f"{path}: the folder of {entry.name} is gone since the run began; restore it")
        if known.identity(path, _reporter(observer, entry.name)) != entry.identity:
            raise ModelError(
                f"{path}: the files of {entry.name} have changed since the run began; restore them, or start a new run"
            )
    now, then = hash_data(tree.config), tree.origin.data
    if now != then:
        changed = sorted(name for name in {*now, *then} if now.get(name) != then.get(name))
        raise ConfigError(
            f"{folder.root}: files of evaluation.datasets or evaluation.task_dirs have changed since the run began "
            f"({', '.join(changed[:3])}); restore them, or start a new run"
        )


def _refuse_other_engines(tree: FamilyTree) -> None:
    """Two versions of an engine may merge or score the same model differently; one run has one."""
    for name in ("mergekit", "lm_eval"):
        then, now = tree.origin.versions.get(name), version(name)
        if then is not None and then != now:
            raise ConfigError(
                f"the run began with {name} {then}, but {now} is installed, which may merge or score differently; "
                f"install {name}=={then}, or start a new run"
            )


def identities_of(found: Preflight, observer: Observer) -> dict[str, str]:
    """Identities of the base and the foundations, no two of which may be equal.

    A model that is yet to be made of an adapter or of pickled weights has the key that it will have in the cache.
    """
    identities: dict[str, str] = {}
    folders: dict[Path, str] = {}
    for name, source in found.sources.items():
        if source.path not in folders:
            folders[source.path] = content_of(source, _reporter(observer, name))
        identity = key_of(source, folders[source.path])
        _refuse_twin(name, identity, identities, source.path)
        identities[name] = identity
    return identities


def refuse_twins(found: Preflight, identities: dict[str, str]) -> None:
    """Make sure once more, when all models are made, that no two are equal; raises ModelError."""
    known: dict[str, str] = {}
    for name, identity in identities.items():
        _refuse_twin(name, identity, known, found.sources[name].path)
        known[name] = identity


def _refuse_twin(name: str, identity: str, known: dict[str, str], path: Path) -> None:
    for other, same in known.items():
        if same == identity:
            raise ModelError(
                f"foundation_models.{name}: has the same files as {other} ({path}); list a model once, and the base "
                "model only as base_model"
            )


def remember(found: Preflight, identities: dict[str, str], folder: RunFolder) -> None:
    """Keep identities that were found just now, so that resuming the run reads no weights again."""
    known = _Remembered(folder.identities)
    known.keep({source.path: identities[name] for name, source in found.sources.items()})


def _reporter(observer: Observer, name: str) -> Report:
    def report(words: str, done: int, total: int) -> None:
        observer.working("inputs", f"{words} {name}", done, total)

    return report


class _Remembered:
    """Identities of folders in a file, by names, sizes and times of their files; the file may be deleted."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._known: dict[str, Any] = {}
        try:
            found = json.loads(cache.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if isinstance(found, dict):
            self._known = found

    def identity(self, folder: Path, report: Report) -> str:
        """`identity_of`, computed only where it is not known."""
        key = self._key(folder)
        if key not in self._known:
            self._known[key] = identity_of(folder, report)
            replace_json(self._cache, self._known)
        return str(self._known[key])

    def keep(self, identities: dict[Path, str]) -> None:
        """Take identities as known."""
        self._known |= {self._key(folder): identity for folder, identity in identities.items()}
        replace_json(self._cache, self._known)

    @staticmethod
    def _key(folder: Path) -> str:
        """Changes with any file; the time of change cannot be set back, unlike that of modification."""
        files = ((path, path.stat()) for path in folder.rglob("*") if path.is_file())
        stamps = sorted((p.relative_to(folder).as_posix(), s.st_size, s.st_mtime_ns, s.st_ctime_ns) for p, s in files)
        return json.dumps([str(folder), stamps])
