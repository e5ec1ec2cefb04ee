"""Checks on resume: engines and models must be the same as when the run began.

Models are compared by content. New paths are recorded, and changed content is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from evolve.config import AdapterSource, Config, ModelSource
from evolve.engines.checkpoints import content_identity, fingerprint
from evolve.engines.sources import LocatedModel
from evolve.errors import ConfigError, ModelError
from evolve.lineage import FamilyTree, FoundationEntry, Prepared
from evolve.run.checkpoints import Manifest
from evolve.run.folder import RunFolder
from evolve.run.inputs.fingerprint import Reporter, content_of, preparation_key
from evolve.run.inputs.locate import BASE, config_key, locate_model, model_sources
from evolve.run.inputs.prepare import Preparer

__all__ = ["refuse_other_engines", "verify_models"]


def refuse_other_engines(tree: FamilyTree) -> None:
    """Raise ConfigError if mergekit or lm-eval has another version than when the run began.

    Two versions of an engine may merge or score the same model differently. transformers is one where prefixes are
    shared, for its version is then part of the scoring settings.
    """
    for name in ("mergekit", "lm_eval", *(["transformers"] if tree.config.evaluation.shares_prefixes else [])):
        then, now = tree.origin.versions.get(name), version(name)
        if then is not None and then != now:
            raise ConfigError(
                f"the run began with {name} {then}, but {now} is installed, which may merge or score differently; "
                f"install {name}=={then}, or start a new run"
            )


def verify_models(
    tree: FamilyTree, config: Config, folder: RunFolder, preparer: Preparer, report: Reporter
) -> dict[str, str]:
    """Find the base and the foundations again, and verify that they are unchanged since the run began.

    Args:
        tree: The family tree of the run.
        config: The configuration with the current, absolute paths.
        folder: The run folder.
        preparer: Prepares missing models again.
        report: Makes reports of progress.

    Returns:
        The new path of each model that has moved, by name, in the form that the journal keeps.

    Raises:
        ModelError: A model is missing or has changed.
        RunError: A worker failed.
    """
    sources, recorded_sources = model_sources(config), model_sources(folder.located_config(tree.config))
    recorded = _recorded_texts(tree)
    paths = {name: folder.relocated(text, tree.root) for name, text in recorded.items()}
    moved: dict[str, str] = {}
    for name, entry in _entries(tree):
        verifier = _Verifier(name, entry, sources[name], paths[name], preparer, pickled=config.allow_pickled_weights)
        before = recorded_sources[name]
        now = verifier.find() if sources[name] == before else verifier.find_changed_source(before)
        if content_identity(fingerprint(now, hash_of=preparer.hashes.hash_of, report=report(name))) != entry.identity:
            raise ModelError(
                f"{now}: the files of {name} have changed since the run began; restore them, or start a new run"
            )
        if folder.portable(now) != recorded[name]:
            moved[name] = folder.portable(now)
    return moved


def _entries(tree: FamilyTree) -> Iterator[tuple[str, FoundationEntry]]:
    yield BASE, tree.origin.base
    yield from ((entry.name, entry) for entry in tree.origin.foundations)


def _recorded_texts(tree: FamilyTree) -> dict[str, str]:
    """Return the checkpoint folders of the base and the foundations as the journal has them, by name."""
    foundations = {entry.name: tree.model(entry.name).checkpoint or "" for entry in tree.origin.foundations}
    return {BASE: tree.base_path, **foundations}


@dataclass(frozen=True)
class _Verifier:
    """The search for one model of a run.

    Attributes:
        recorded: Its last recorded folder.
        pickled: Whether pickled weights are accepted.
    """

    name: str
    entry: FoundationEntry
    source: ModelSource
    recorded: Path
    preparer: Preparer
    pickled: bool

    @property
    def prepared(self) -> Prepared | None:
        """How the checkpoint was prepared; None if it is used in place."""
        if self.entry.prepared is not None:
            return self.entry.prepared
        return _prepared_by_path(self.source, self.entry, self.recorded, pickled=self.pickled)

    def find_changed_source(self, before: ModelSource) -> Path:
        """Return the folder of the checkpoint that a changed source gives; the caller compares its content.

        Args:
            before: The recorded source. A part that has not changed keeps its recorded commit.

        Raises:
            ModelError: The source is missing, or an adapter or pickled weights are not the recorded ones.
        """
        source = self.source
        if isinstance(source, AdapterSource) and isinstance(before, AdapterSource) and self.prepared is not None:
            commits = {
                role: commit
                for role, commit in self.prepared.parts.items()
                if getattr(source, role) == getattr(before, role)
            }
            model = self._locate(commits, pickled=False)
        else:
            model = locate_model(source, pickled=self.pickled)
        if model.adapter is None and not model.pickled:
            return model.path
        key = preparation_key(model, content_of(model, self.preparer.hashes), self.preparer.hashes)
        if self.prepared is None or key != self.prepared.key:
            raise ModelError(
                f"{config_key(self.name)} = {self.source}: is not the model that the run began with; restore it, or "
                "start a new run"
            )
        return self.recorded if _has_all_files(self.recorded, key) else self.preparer.make(self.name, model, key)

    def find(self) -> Path:
        """Return the current folder of the checkpoint; prepare it again if it was prepared and is missing."""
        prepared = self.prepared
        if prepared is not None:
            return self._find_prepared(prepared)
        if isinstance(self.source, str) and self.source.startswith("/"):
            if not Path(self.source).is_dir():
                raise ModelError(
                    f"{self.source}: the folder of {self.name} is missing; restore it, or give its new path as "
                    f"{config_key(self.name)} in a configuration for `evolve run`"
                )
            return Path(self.source)
        if self.recorded.is_dir():
            return self.recorded
        return self._locate({"model": self.entry.revision}, pickled=False).path

    def _find_prepared(self, prepared: Prepared) -> Path:
        if _has_all_files(self.recorded, prepared.key):
            return self.recorded
        kind = "converted copy" if prepared.kind == "pickled" else "merged adapter"
        missing = f"{self.recorded}: the {kind} of {self.name} is missing, and"
        try:
            model = self._locate(prepared.parts, pickled=prepared.kind == "pickled")
            key = preparation_key(model, content_of(model, self.preparer.hashes), self.preparer.hashes)
        except ModelError as error:
            raise ModelError(f"{missing} {error}") from None
        if key != prepared.key:
            parts = f"the files of {self.source}"
            if isinstance(self.source, AdapterSource):
                parts = f"{self.source.model}, {self.source.adapter} or peft"
            raise ModelError(f"{missing} {parts} have changed since the run began; restore them, or start a new run")
        return self.preparer.make(self.name, model, key)

    def _locate(self, commits: Mapping[str, str | None], *, pickled: bool) -> LocatedModel:
        """Locate the source at the commits with which the run began."""
        source = self.source
        if isinstance(source, AdapterSource):
            parts = {role: _at(getattr(source, role), commits.get(role)) for role in ("model", "adapter")}
            return locate_model(AdapterSource(**parts), pickled=False)
        return locate_model(_at(source, commits.get("model")), pickled=pickled)


def _prepared_by_path(source: ModelSource, entry: FoundationEntry, path: Path, *, pickled: bool) -> Prepared | None:
    """Infer from paths how a checkpoint was prepared, for a journal of schema 1, which does not record it.

    An adapter was always merged. Converted weights are in a folder named by their cache key, beside the runs.
    """
    if isinstance(source, AdapterSource):
        model, _, adapter = (entry.revision or "").partition("+")
        return Prepared(kind="adapter", key=path.name, parts={"model": model or None, "adapter": adapter or None})
    if pickled and path.parent.name == ".converted":
        return Prepared(kind="pickled", key=path.name, parts={"model": entry.revision})
    return None


def _has_all_files(folder: Path, key: str) -> bool:
    """Return whether all files of a prepared model exist with their full size; their content is compared later."""
    manifest = Manifest.read(folder, key)
    if manifest is None:
        return False
    paths = {folder / name: size for name, (size, _) in manifest.files.items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())


def _at(source: str, commit: str | None) -> str:
    return f"{source.partition('@')[0]}@{commit}" if commit and not source.startswith("/") else source
