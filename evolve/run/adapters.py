"""Foundations that are a model and a LoRA adapter: each is merged once, into a cache that all runs of a folder share.

A cached model is named by everything that it is made of. It is merged in a staging folder beside it, synced and
renamed, and its manifest lists its files, so that a half-written or damaged one is noticed and made again.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import filelock

from evolve.config import AdapterSource, ModelSource
from evolve.engines.adapters import ADAPTER_FILES, AdapterJob, check_adapter, merge_adapter
from evolve.engines.checkpoints import read_layout
from evolve.engines.sources import Source, resolve
from evolve.errors import ModelError, RunError
from evolve.lineage import FamilyTree, FoundationEntry
from evolve.run.checkpoints import CheckpointGuard, Manifest
from evolve.run.durable import hash_file, publish, remove
from evolve.run.executors import Call, Executor, Failed
from evolve.run.identity import identity_of

__all__ = ["AdapterCache", "key_of", "locate", "restore_adapters", "stand_ins"]

_TOKENIZER_FILES = ("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")


def locate(source: ModelSource) -> Source:
    """Find a model, or a model and the adapter that is yet to be merged into it.

    Raises:
        ModelError: One of them is missing or damaged, or the adapter does not fit the model.
    """
    if not isinstance(source, AdapterSource):
        return resolve(source)
    adapter = resolve(source.adapter)  # first, for a wrong folder is told even where the hub is switched off
    return _adapted(resolve(source.model), adapter)


def _adapted(model: Source, adapter: Source) -> Source:
    check_adapter(adapter.path, read_layout(model.path))
    commits = (model.revision or "", adapter.revision or "")
    return Source(model.path, "+".join(commits) if any(commits) else None, adapter.path)


def key_of(source: Source, model_identity: str) -> str:
    """What a merged adapter is made of, as a SHA-256: its model, all files of the adapter that count, and peft."""
    folder = source.adapter
    if folder is None:
        raise ValueError(f"{source.path} has no adapter")
    names = {*ADAPTER_FILES, *(path.name for pattern in _TOKENIZER_FILES for path in folder.glob(pattern))}
    files = {name: hash_file(folder / name) for name in sorted(names)}
    record = {"model": model_identity, "adapter": files, "peft": version("peft")}
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


@contextmanager
def stand_ins(sources: Mapping[str, Source]) -> Iterator[dict[str, Path]]:
    """Folders by name, in which a model with an adapter that is not merged yet has the model's files.

    Two adapters of one model have different folders, as mergekit wants them.
    """
    with tempfile.TemporaryDirectory(prefix="evolve-models-") as made:
        folders = {}
        for name, source in sources.items():
            folders[name] = source.path
            if source.adapter is not None:
                folders[name] = Path(made) / name
                folders[name].symlink_to(source.path, target_is_directory=True)
        yield folders


@dataclass(frozen=True)
class AdapterCache:
    """Merged adapters by key, in a folder that the runs beside one another share.

    Attributes:
        root: The folder.
        trust_remote_code: Whether code that comes with a model may run.
    """

    root: Path
    executor: Executor
    trust_remote_code: bool

    def merged(self, name: str, source: Source, key: str) -> Source:
        """The merged model of a source, made now unless it is there and whole.

        Raises:
            ModelError: peft cannot merge the adapter.
            RunError: The worker failed.
        """
        final = self.root / key
        self.root.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.root / f".{key}.lock"):  # another run may be about to make the same
            if CheckpointGuard().damage(final, key) is not None:
                self._make(name, source, key)
        return Source(final, source.revision)

    def _make(self, name: str, source: Source, key: str) -> None:
        staged = self.root / f".{key}.staging"
        if staged.exists():
            remove(staged)
        staged.mkdir()
        if source.adapter is None:
            raise ValueError(f"{name} has no adapter")
        job = AdapterJob(source.path, source.adapter, staged, trust_remote_code=self.trust_remote_code)
        self.executor.submit(Call(f"adapter {name}", merge_adapter, job))
        while (outcome := self.executor.wait(1.0)) is None:
            pass
        if isinstance(outcome, Failed):
            remove(staged)
            if isinstance(outcome.error, ModelError):
                raise ModelError(f"foundation_models.{name}: {outcome.error}")
            raise outcome.error or RunError(f"foundation_models.{name}: its adapter is not merged: {outcome.reason}")
        Manifest.of(name, key, outcome.result).write(staged)
        publish(staged, self.root / key)


def restore_adapters(tree: FamilyTree, executor: Executor) -> None:
    """Merge again what is gone from the cache since the run began, out of the same model and adapter.

    Raises:
        ModelError: They are not what they were, or are gone as well.
    """
    for entry in tree.origin.foundations:
        source = tree.config.foundation_models[entry.name]
        if not isinstance(source, AdapterSource) or _is_there(Path(entry.path)):
            continue
        found = _found_again(source, entry)
        key = key_of(found, identity_of(found.path))
        if key != Path(entry.path).name:
            raise ModelError(
                f"{entry.path}: the merged adapter of {entry.name} is gone, and {source.model}, {source.adapter} or "
                "peft are not what they were when the run began; restore them, or start a new run"
            )
        AdapterCache(Path(entry.path).parent, executor, tree.config.trust_remote_code).merged(entry.name, found, key)


def _is_there(folder: Path) -> bool:
    """Whether all files of a cached model are there in full length; their contents are looked at with all models'."""
    manifest = Manifest.read(folder, folder.name)
    if manifest is None:
        return False
    paths = {folder / name: size for name, (size, _) in manifest.files.items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())


def _found_again(source: AdapterSource, entry: FoundationEntry) -> Source:
    """The model and the adapter at the commits that the run began with."""
    model, adapter = (entry.revision or "+").split("+")
    try:
        return _adapted(resolve(_at(source.model, model)), resolve(_at(source.adapter, adapter)))
    except ModelError as error:
        raise ModelError(f"{entry.path}: the merged adapter of {entry.name} is gone, and {error}") from None


def _at(source: str, commit: str) -> str:
    return f"{source.partition('@')[0]}@{commit}" if commit else source
