"""The base and the foundations as configured: where they are, and what must be made of them before the run.

A LoRA adapter is merged into its model, and pickled weights are converted, each once, into caches that all runs of a
folder share; what comes of it is a model like any.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evolve.config import AdapterSource, Config, ModelSource
from evolve.engines.adapters import ADAPTER_FILES, AdapterJob, check_adapter, merge_adapter
from evolve.engines.checkpoints import fingerprint, is_pickled, read_layout
from evolve.engines.pickled import ConversionJob, convert, pickled_files
from evolve.engines.protocols import Report
from evolve.engines.sources import Source, resolve
from evolve.errors import ModelError
from evolve.lineage import FamilyTree, FoundationEntry
from evolve.run.derived import DerivedCache, is_there
from evolve.run.durable import hash_file
from evolve.run.executors import Call, Executor
from evolve.run.identity import identity_of

__all__ = ["BASE", "config_key", "content_of", "key_of", "locate", "made", "restore_made", "stand_ins"]

BASE = "base_model"
_CONVERSION = 1  # to be raised whenever the conversion writes other files
_TOKENIZER_FILES = ("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")


def config_key(name: str) -> str:
    """The key of the configuration that names a model."""
    return name if name == BASE else f"foundation_models.{name}"


# ------------------------------------------------------------------------------------------------------- where


def locate(source: ModelSource, *, pickled: bool) -> Source:
    """Find a model, or a model and the adapter that is yet to be merged into it.

    Args:
        source: As configured.
        pickled: Whether pickled weights will do; those of an adapter's model never do.

    Raises:
        ModelError: One of them is missing or damaged, or the adapter does not fit the model.
    """
    if not isinstance(source, AdapterSource):
        return resolve(source, pickled=pickled)
    adapter = resolve(source.adapter)  # first, for a wrong folder is told even where the hub is switched off
    return _adapted(resolve(source.model), adapter)


def _adapted(model: Source, adapter: Source) -> Source:
    if is_pickled(model.path):
        raise ModelError(
            f"{model.path}: holds pickled weights, which are not converted for a model with an adapter: convert them "
            "with AutoModelForCausalLM.from_pretrained(...).save_pretrained(..., safe_serialization=True)"
        )
    check_adapter(adapter.path, read_layout(model.path))
    commits = (model.revision or "", adapter.revision or "")
    return Source(model.path, "+".join(commits) if any(commits) else None, adapter.path)


@contextmanager
def stand_ins(sources: Mapping[str, Source]) -> Iterator[dict[str, Path]]:
    """Folders by name, in which a model with an adapter that is not merged yet has the model's files.

    Two adapters of one model have different folders, as mergekit wants them.
    """
    with tempfile.TemporaryDirectory(prefix="evolve-models-") as made_folders:
        folders = {}
        for name, source in sources.items():
            folders[name] = source.path
            if source.adapter is not None:
                folders[name] = Path(made_folders) / name
                folders[name].symlink_to(source.path, target_is_directory=True)
        yield folders


# -------------------------------------------------------------------------------------------------------- what of


def content_of(source: Source, report: Report | None = None) -> str:
    """Identity of a source's model as it lies there, without its adapter; a SHA-256 over its files."""
    if not source.pickled:
        return identity_of(source.path, report)
    stamps = fingerprint(source.path, weights=pickled_files(source.path), report=report)
    return _hash({"pickled": {name: (stamp.size, stamp.sha256) for name, stamp in stamps.items()}, "as": _CONVERSION})


def key_of(source: Source, content: str) -> str:
    """The name that what is made of a source has in its cache; the identity of a model of which nothing is made.

    A merged adapter is made of its model, all files of the adapter that count, and peft; converted weights of the
    files of their model.
    """
    folder = source.adapter
    if folder is None:
        return content
    names = {*ADAPTER_FILES, *(path.name for pattern in _TOKENIZER_FILES for path in folder.glob(pattern))}
    files = {name: hash_file(folder / name) for name in sorted(names)}
    return _hash({"model": content, "adapter": files, "peft": version("peft")})


def _hash(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


# ---------------------------------------------------------------------------------------------------------- making


def made(cache: DerivedCache, name: str, source: Source, key: str, *, trust_remote_code: bool) -> Source:
    """The model that is made of a source, from the cache if it is there and whole.

    Raises:
        ModelError: peft cannot merge the adapter, or the pickled weights are not fit for use.
        RunError: The worker failed.
    """
    call = _work(name, source, trust_remote_code=trust_remote_code)
    return Source(cache.folder(key, config_key(name), call), source.revision)


def _work(name: str, source: Source, *, trust_remote_code: bool) -> Callable[[Path], Call]:
    def call(staged: Path) -> Call:
        if source.adapter is None:
            return Call(f"conversion {name}", convert, ConversionJob(source.path, staged))
        job = AdapterJob(source.path, source.adapter, staged, trust_remote_code=trust_remote_code)
        return Call(f"adapter {name}", merge_adapter, job)

    return call


def restore_made(tree: FamilyTree, executor: Executor) -> None:
    """Make again what is gone from the caches since the run began, out of the same files.

    Raises:
        ModelError: They are not what they were, or are gone as well.
    """
    config = tree.config
    for name, entry in ((BASE, tree.origin.base), *((entry.name, entry) for entry in tree.origin.foundations)):
        source = config.base_model if name == BASE else config.foundation_models[name]
        path = Path(entry.path)
        if is_there(path):
            continue
        if not _was_made(config, source, path, entry.revision):
            _fetch_again(name, source, entry)
            continue
        kind, parts = "converted copy", f"the files of {source}"
        if isinstance(source, AdapterSource):
            kind, parts = "merged adapter", f"{source.model}, {source.adapter} or peft"
        gone = f"{path}: the {kind} of {name} is gone, and"
        try:
            found = _found_again(source, entry)
            key = key_of(found, content_of(found))
        except ModelError as error:
            raise ModelError(f"{gone} {error}") from None
        if key != path.name:
            raise ModelError(
                f"{gone} {parts} are not what they were when the run began; restore them, or start a new run"
            )
        made(DerivedCache(path.parent, executor), name, found, key, trust_remote_code=config.trust_remote_code)


def _fetch_again(name: str, source: ModelSource, entry: FoundationEntry) -> None:
    """Ask the hub once more for the commit of a model that has gone from the local cache; a folder is just gone."""
    if entry.revision is None or isinstance(source, AdapterSource):
        return
    found = resolve(_at(source, entry.revision))
    if found.path != Path(entry.path):
        raise ModelError(
            f"{entry.path}: the folder of {name} is gone; the hub's cache has it in {found.path} now, so set HF_HOME "
            "or HF_HUB_CACHE as they were when the run began"
        )


def _was_made(config: Config, source: ModelSource, path: Path, revision: str | None) -> bool:
    """Whether a model of the run was made before it."""
    if isinstance(source, AdapterSource):
        return True
    # a folder is used where it lies, and the hub's cache names a model's folder by its commit
    return config.allow_pickled_weights and Path(source) != path and path.name != revision


def _found_again(source: ModelSource, entry: FoundationEntry) -> Source:
    """The source at the commits that the run began with."""
    if not isinstance(source, AdapterSource):
        return resolve(_at(source, entry.revision or ""), pickled=True)
    model, adapter = (entry.revision or "+").split("+")
    return _adapted(resolve(_at(source.model, model)), resolve(_at(source.adapter, adapter)))


def _at(source: str, commit: str) -> str:
    return f"{source.partition('@')[0]}@{commit}" if commit else source
