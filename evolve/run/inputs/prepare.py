"""Stage 4, prepare: merge adapters into their models and convert pickled weights, once for all runs in a folder.

A prepared model is an ordinary checkpoint in a cache beside the runs. Its folder is named by its cache key, and its
manifest lists its files, so that an incomplete or damaged one is detected and prepared again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import filelock

from evolve import __version__
from evolve.config import ModelSource
from evolve.engines.adapters import merge_adapter
from evolve.engines.checkpoints import Layout, content_identity, fingerprint
from evolve.engines.pickled import convert
from evolve.engines.protocols import AdapterJob, ConversionJob, Engines, MergeResult
from evolve.engines.sources import LocatedModel
from evolve.errors import InputsChangedError, ModelError
from evolve.lineage import FoundationEntry, Prepared, RunStarted
from evolve.run.checkpoints import CheckpointGuard, Manifest
from evolve.run.durable import publish, remove
from evolve.run.executors import Call, Executor, run_call
from evolve.run.folder import RunFolder
from evolve.run.hashes import HashCache
from evolve.run.inputfiles import InputFiles
from evolve.run.inputs.check import check_merges, layout_of, refuse_misfits
from evolve.run.inputs.fingerprint import Fingerprinted, content_of, files_of, preparation_key, refuse_duplicates
from evolve.run.inputs.locate import BASE, config_key, model_sources, parts_of

__all__ = ["Preparer", "Ready", "prepare_models"]

_ENGINES = ("mergekit", "lm_eval", "peft", "torch", "transformers")


@dataclass(frozen=True)
class Ready:
    """Everything that a run starts with.

    Attributes:
        fingerprinted: The identified inputs.
        paths: Checkpoint folders by name.
        identities: Content hash of each checkpoint, by name.
        layouts: The tensors of each checkpoint, by name.
        prepared: How each prepared checkpoint was made, by name.
    """

    fingerprinted: Fingerprinted
    paths: Mapping[str, Path]
    identities: Mapping[str, str]
    layouts: Mapping[str, Layout]
    prepared: Mapping[str, Prepared]

    def start_event(self, folder: RunFolder) -> RunStarted:
        """Return the first event of a run in a folder."""
        checked = self.fingerprinted.checked
        entries = {name: self._entry(name, source, folder) for name, source in model_sources(checked.config).items()}
        base = entries.pop(BASE)
        return RunStarted(
            run=checked.config.name,
            config=folder.portable_config(checked.config).model_dump(mode="json"),
            versions={"evolve": __version__, **{name: version(name) for name in _ENGINES}},
            recipes={name: template.text for name, template in checked.templates.items()},
            data=dict(self.fingerprinted.data),
            base=base,
            foundations=tuple(entries.values()),
            root=str(folder.root),
            layers=checked.layers,
            differing_settings=checked.differing_settings,
            reads={name: folder.portable(path) for name, path in self.fingerprinted.reads.items()},
            unshared=dict(self.fingerprinted.unshared),
            recipe_models=dict(self.fingerprinted.recipe_models),
            equal_weights=tuple(task for task, facts in checked.tasks.items() if not facts.weighted_by_size),
        )

    def _entry(self, name: str, source: ModelSource, folder: RunFolder) -> FoundationEntry:
        return FoundationEntry(
            name=name,
            source="+".join(map(folder.portable, parts_of(source).values())),
            revision=self.fingerprinted.checked.located.models[name].revision,
            path=folder.portable(self.paths[name]),
            identity=self.identities[name],
            bytes=sum(self.layouts[name].files.values()),
            prepared=self.prepared.get(name),
        )


@dataclass(frozen=True)
class Preparer:
    """A maker of prepared models, in a cache that the runs in one folder share.

    Attributes:
        adapters: Folder of the merged adapters.
        converted: Folder of the models with converted weights.
    """

    adapters: Path
    converted: Path
    executor: Executor
    hashes: HashCache
    trust_remote_code: bool

    def make(self, name: str, model: LocatedModel, key: str) -> Path:
        """Return the folder of a prepared model; prepare it now unless an intact one is cached.

        Raises:
            ModelError: peft cannot merge the adapter, or the pickled weights are unusable.
            InputsChangedError: A file that it is made of changed meanwhile.
            RunError: The worker failed.
        """
        root = self.converted if model.adapter is None else self.adapters
        with _exclusive(root, key):  # another run may be preparing the same model
            if CheckpointGuard(self.hashes).damage(root / key, key) is not None:
                self._make(name, model, key, root)
        return root / key

    def _make(self, name: str, model: LocatedModel, key: str, root: Path) -> None:
        staged = root / f".{key}.staging"
        remove(staged)
        staged.mkdir()
        try:
            result = self._run(name, model, key, staged)
        except BaseException:  # also a signal
            remove(staged)
            raise
        manifest = Manifest.of(name, key, result)
        manifest.write(staged)
        publish(staged, root / key)
        CheckpointGuard(self.hashes).trust(root / key, manifest)

    def _run(self, name: str, model: LocatedModel, key: str, staged: Path) -> MergeResult:
        """Prepare a model in a staging folder; refuse the result if a file that it was made of has changed."""
        reads = InputFiles.begin(self.hashes, lambda: files_of(model))
        if preparation_key(model, content_of(model, self.hashes), self.hashes) != key:
            raise InputsChangedError(f"{config_key(name)}: its files have changed during the checks; start again")
        try:
            result: MergeResult = run_call(self.executor, self._call(name, model, staged))
        except ModelError as error:
            _refuse_change(name, reads)
            raise ModelError(f"{config_key(name)}: {error}") from None
        _refuse_change(name, reads)
        return result

    def _call(self, name: str, model: LocatedModel, staged: Path) -> Call:
        if model.adapter is None:
            return Call(f"convert {name}", convert, ConversionJob(model.path, staged))
        job = AdapterJob(model.path, model.adapter, staged, trust_remote_code=self.trust_remote_code)
        return Call(f"merge adapter {name}", merge_adapter, job)


def _refuse_change(name: str, reads: InputFiles) -> None:
    change = reads.change()
    if change is not None:
        raise InputsChangedError(f"{config_key(name)}: {change} while it was prepared; {change.fix}, then start again")


@contextmanager
def _exclusive(root: Path, key: str) -> Iterator[None]:
    """Hold the lock of one prepared model; remove its file, and after a failure the empty folders that were made.

    A process that waited for the lock of a removed file gets no lock by it; filelock opens the file anew.
    """
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    lock = root / f".{key}.lock"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(lock):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
    except BaseException:
        with suppress(OSError):  # another process uses it
            for folder in missing:
                folder.rmdir()
        raise


def prepare_models(found: Fingerprinted, preparer: Preparer, engines: Engines) -> Ready:
    """Merge adapters and convert weights, then check the prepared models against the others.

    Raises:
        ModelError: A model cannot be prepared, or the prepared model does not fit the others.
        RecipeError: mergekit cannot merge it.
        RunError: The worker failed.
    """
    checked = found.checked
    located = dict(checked.located.models)
    layouts, identities, records = dict(checked.layouts), dict(found.contents), {}
    for name, key in found.preparations.items():
        model = located[name]
        path = preparer.make(name, model, key)
        located[name] = LocatedModel(path, model.revision)
        layouts[name] = layout_of(name, located[name])
        identities[name] = content_identity(fingerprint(path, hash_of=preparer.hashes.hash_of))
        kind = "pickled" if model.adapter is None else "adapter"
        records[name] = Prepared(kind=kind, key=key, parts=_commits(checked.config.foundation_models, name, model))
    paths = {name: model.path for name, model in located.items()}
    if records:
        refuse_misfits(layouts)
        refuse_duplicates({name: identities[name] for name in paths}, paths)
        ready = replace(checked, located=replace(checked.located, models=located), layouts=layouts)
        found = replace(found, checked=check_merges(ready, engines, preparer.executor))
    return Ready(found, paths, identities, layouts, records)


def _commits(sources: Mapping[str, ModelSource], name: str, model: LocatedModel) -> dict[str, str | None]:
    """Return the Hub commits of a prepared model's parts by their role; None for a folder."""
    roles = parts_of(sources[name]) if name in sources else {"model": ""}
    commits = (model.revision or "").split("+") if model.adapter is not None else [model.revision or ""]
    return {role: commit or None for role, commit in zip(roles, [*commits, ""], strict=False)}
