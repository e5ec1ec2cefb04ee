"""The inputs of a step: what its call reads is as the journal has it before the call, and unchanged after it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from uuid import uuid4

from evolve.engines.checkpoints import FileStamp, content_identity, model_files
from evolve.engines.protocols import EvaluateJob, KinshipJob
from evolve.errors import InputsChangedError, ModelError, RecipeError
from evolve.run.checkpoints import Manifest
from evolve.run.folder import RunFolder
from evolve.run.inputfiles import FileChange, InputFiles
from evolve.run.inputs.data import recorded_hashes, recorded_paths
from evolve.run.inputs.fingerprint import recipe_model_files, recipe_model_identity
from evolve.run.steps.base import RunContext, StepInFlight

__all__ = ["begin_reading", "refuse_changes"]


def begin_reading(context: RunContext, step: StepInFlight) -> StepInFlight:
    """Return a step with the files that it reads, after comparing their contents with the journal.

    The request caches of an evaluation are named by the states of these files. A file that changed and was restored
    has another state, so that answers from the time of the change are not used.

    Raises:
        InputsChangedError: A file has changed since the run began.
    """
    reads = _Inputs(context, tuple(_models(context, step)), step.step == "evaluate").begin()
    call, job = step.call, step.call.job
    if isinstance(job, EvaluateJob):
        stamp = reads.stamp or uuid4().hex
        caches = {task: stem.with_name(f"{stem.name}-{stamp}") for task, stem in job.request_caches.items()}
        call = replace(call, job=replace(job, request_caches=caches))
    return replace(step, call=call, reads=reads)


def refuse_changes(context: RunContext, step: StepInFlight) -> None:
    """Make sure that nothing has changed that a step read, before its result is recorded or its candidate is blamed.

    Raises:
        InputsChangedError: A file has changed; the answers that an evaluation cached are deleted.
    """
    change = step.reads.change() if step.reads is not None else None
    if change is None:
        return
    if isinstance(step.call.job, EvaluateJob):
        for stem in step.call.job.request_caches.values():
            context.folder.delete_request_cache(stem)
    raise _error(context.folder, change, f"during `{step.call.id}`, and nothing of that step is kept")


def _error(folder: RunFolder, change: FileChange, when: str) -> InputsChangedError:
    resume = f"`evolve resume {folder.root}`"
    if isinstance(change.file, Path) and change.file.is_relative_to(folder.models) and change.fix != "remove it":
        return InputsChangedError(f"{change} {when}; run {resume}, which merges the model again")
    return InputsChangedError(f"{change} {when}; {change.fix} and run {resume}, or start a new run")


@dataclass(frozen=True)
class _Model:
    """A model that a step reads.

    Attributes:
        identity: Its recorded identity.
        kind: A child of the run, whose manifest has the hashes of its files; a foundation or the base; or a model
            that a recipe names by its path.
    """

    folder: Path
    identity: str
    kind: Literal["child", "foundation", "recipe"]

    @property
    def files(self) -> list[Path]:
        """The files that affect its output."""
        return recipe_model_files(self.folder) if self.kind == "recipe" else model_files(self.folder)


def _models(context: RunContext, step: StepInFlight) -> Iterator[_Model]:
    """Yield the models whose files a step reads."""
    tree, folder, names = context.tree, context.folder, [step.model] if step.model else []
    if step.step == "merge" and step.model is not None:
        names = [*tree.model(step.model).parents]
        for path, identity in tree.origin.recipe_models.items():
            yield _Model(folder.locate(path), identity, "recipe")
    elif isinstance(step.call.job, KinshipJob):
        names = [*step.call.job.models]
    if step.step != "evaluate":
        yield _Model(folder.locate(tree.base_path), tree.origin.base.identity, "foundation")
    for model in map(tree.model, names):
        kind: Literal["child", "foundation"] = "foundation" if model.kind == "foundation" else "child"
        yield _Model(folder.checkpoint_of(model), model.identity or "", kind)


@dataclass(frozen=True)
class _Inputs:
    """The inputs of one step: models, and for an evaluation the data."""

    context: RunContext
    models: tuple[_Model, ...]
    evaluates: bool

    def begin(self) -> InputFiles:
        """Return the files, after comparing their contents with the journal."""
        first = self.context.hashes.first
        with self._explained(first):
            reads = InputFiles.begin(self.context.hashes, self.list_files)
            for model in self.models:
                self._verify(model, first)
            if self.evaluates:
                self._verify_data(first)
        return reads

    def list_files(self) -> Iterator[Path]:
        """Yield the files as they are now."""
        for model in self.models:
            yield from model.files
        yield from self._data().values()

    def _data(self) -> Mapping[str, Path]:
        if not self.evaluates:
            return {}
        tree, folder = self.context.tree, self.context.folder
        reads = {name: folder.locate(path) for name, path in tree.reads.items()}
        return recorded_paths(tree, folder.located_config(tree.config), folder, reads)

    def _verify(self, model: _Model, first: Mapping[Path, str]) -> None:
        """Compare the files of a model with the manifest of a child, or with the identity of another model."""
        hashes, stamps = self.context.hashes, {}
        for path in model.files:
            hashed = hashes.hashed(path)
            stamps[path.relative_to(model.folder).as_posix()] = FileStamp(hashed.state.size, hashed.sha256)
        if model.kind == "child":
            manifest = Manifest.read(model.folder, model.identity)
            if manifest is None:
                raise self._error(FileChange(model.folder, "has changed"))
            first = {model.folder / name: sha256 for name, (_, sha256) in manifest.files.items()}
            unchanged = all(first.get(model.folder / name) == stamp.sha256 for name, stamp in stamps.items())
        elif model.kind == "recipe":
            unchanged = recipe_model_identity(str(model.folder), hashes) == model.identity
        else:
            unchanged = content_identity(stamps) == model.identity
        if not unchanged:
            now = {model.folder / name: stamp.sha256 for name, stamp in stamps.items()}
            raise self._error(_first_change(now, first) or FileChange(model.folder, "has changed"))

    def _verify_data(self, first: Mapping[Path, str]) -> None:
        """Compare the data with the recorded hashes."""
        tree, paths = self.context.tree, self._data()
        then = recorded_hashes(tree, self.context.folder.located_config(tree.config))
        for name, path in paths.items():
            if name not in then or self.context.hashes.hash_of(path) != then[name]:
                raise self._error(FileChange(path, "has changed" if name in then else "is new"))
        for name in sorted(then.keys() - paths.keys()):
            gone = (path for path, sha256 in first.items() if sha256 == then[name] and not path.exists())
            raise self._error(FileChange(next(gone, name), "is missing"))

    def _error(self, change: FileChange) -> InputsChangedError:
        return _error(self.context.folder, change, "since the run began")

    @contextmanager
    def _explained(self, first: Mapping[Path, str]) -> Iterator[None]:
        """Report what cannot be read as a change, because it could be read when the run began."""
        try:
            yield
        except (ModelError, RecipeError, OSError) as error:
            missing = _first_missing({model.folder for model in self.models}, first)
            raise self._error(missing or FileChange.of(error)) from error


def _first_change(now: Mapping[Path, str], first: Mapping[Path, str]) -> FileChange | None:
    """Return the first difference of some files to the first hashes in their folders; None if it is not known."""
    if first.keys().isdisjoint(now):
        return None
    for path, sha256 in sorted(now.items()):
        if first.get(path) != sha256:
            return FileChange(path, "has changed" if path in first else "is new")
    return _first_missing({path.parent for path in now}, first)


def _first_missing(folders: Collection[Path], first: Mapping[Path, str]) -> FileChange | None:
    """Return the first file that was in one of some folders and is missing; None if there is none."""
    missing = (path for path in sorted(first) if path.parent in folders and not path.exists())
    return next((FileChange(path, "is missing") for path in missing), None)
