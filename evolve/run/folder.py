"""The run folder: all files of a run.

The journal is the only record of the run. All other files can be rebuilt from it and from the models.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evolve.config import Config, changed_arguments, dump_config
from evolve.errors import RunFolderError, full_disk
from evolve.files import MOST_MODEL_JSON, read_json
from evolve.lineage import FamilyTree, Model, to_node_link
from evolve.run.durable import remove, replace_json, replace_text, sync_folder
from evolve.run.faults import fault_point
from evolve.run.journal import read_journal, tree_of
from evolve.run.links import refuse_links
from evolve.run.rescue import rescues

__all__ = ["RunFolder"]

_OURS = {".lock", "driver.json", "progress.json", "config.yaml", "journal.jsonl", "family_tree.json", "run.log"}
_FOLDERS = ("recipes", "models", "evals", "staging")
_REQUESTS = "requests-"  # beginning of the names of request caches
_LEFTOVER = re.compile(r"\..+\.\d+\.(gone|tmp|moving)")


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run, all under `root`, which is absolute."""

    root: Path

    @property
    def journal(self) -> Path:
        """The journal, the only record of the run."""
        return self.root / "journal.jsonl"

    @property
    def config(self) -> Path:
        """The complete configuration, with every default."""
        return self.root / "config.yaml"

    @property
    def family_tree(self) -> Path:
        """The current tree as networkx node-link data."""
        return self.root / "family_tree.json"

    @property
    def log(self) -> Path:
        """The log of the driver and the engines."""
        return self.root / "run.log"

    @property
    def staging(self) -> Path:
        """Unfinished work; may be deleted while no process drives the run."""
        return self.root / "staging"

    @property
    def progress(self) -> Path:
        """The current step; the file exists only while the run is being driven."""
        return self.root / "progress.json"

    @property
    def models(self) -> Path:
        """The checkpoints of the children."""
        return self.root / "models"

    @property
    def scores(self) -> Path:
        """The score store, shared by the runs beside this one."""
        return self.root.parent / ".scores"

    @property
    def adapters(self) -> Path:
        """Adapters merged into their models, shared by the runs beside this one."""
        return self.root.parent / ".adapters"

    @property
    def converted(self) -> Path:
        """Models with converted weights, shared by the runs beside this one."""
        return self.root.parent / ".converted"

    def recipe(self, model: str) -> Path:
        """The recipe of a child, as mergekit-yaml takes it."""
        return self.root / "recipes" / f"{model}.yaml"

    def checkpoint(self, model: str) -> Path:
        """The checkpoint of a child."""
        return self.models / model

    def evaluation(self, model: str) -> Path:
        """lm-eval's results and samples of a model."""
        return self.root / "evals" / model

    def relative(self, path: Path) -> str:
        """Return a path in this folder as the journal and the tree keep it."""
        return path.relative_to(self.root).as_posix()

    def checkpoint_of(self, model: Model, root: str | None = None) -> Path:
        """Return the checkpoint folder of a model that has one; `root` as in `relocated`."""
        if model.checkpoint is None:
            raise ValueError(f"{model.name} has no checkpoint")
        return self.relocated(model.checkpoint, root)

    # ------------------------------------------------------------------------------------------------ moved folders

    def portable(self, path: Path | str) -> str:
        """Return a path as the journal keeps it: relative to this folder if it is in the folder of the runs."""
        string = str(path)
        if not string.startswith("/") or not Path(string).is_relative_to(self.root.parent):
            return string
        return os.path.relpath(string, self.root)

    def locate(self, path: str) -> Path:
        """Return the absolute form of a path in the journal."""
        return Path(os.path.normpath(self.root / path))

    def relocated(self, path: str, root: str | None) -> Path:
        """Return where a path of the journal is now; its recorded place if it is nowhere.

        If this folder has moved, what a path outside it names may have moved with it, or not.

        Args:
            path: The path as the journal keeps it.
            root: The recorded place of this folder; None if it does not matter or is not known.
        """
        here = self.locate(path)
        if root is None or not path.startswith(("/", "../")) or here.exists():
            return here
        before = Path(os.path.normpath(Path(root) / path))
        moved = self.locate(os.path.relpath(before, root))
        return next((place for place in (before, moved) if place.exists()), here)

    def portable_config(self, config: Config) -> Config:
        """Return a configuration with its paths as the journal keeps them."""
        return self.with_paths(config, self.portable)

    def located_config(self, config: Config, root: str | None = None) -> Config:
        """Return a configuration from the journal with absolute paths; `root` as in `relocated`."""
        outside = ("/", "../")  # the others are Hub ids
        return self.with_paths(
            config, lambda path: str(self.relocated(path, root)) if path.startswith(outside) else path
        )

    @staticmethod
    def with_paths(config: Config, change: Callable[[str], str]) -> Config:
        """Return a configuration with the paths of models and data changed; `change` also gets other strings."""
        raw = config.model_dump(mode="json")
        raw["base_model"] = change(raw["base_model"])
        raw["foundation_models"] = {
            name: change(source) if isinstance(source, str) else {part: change(path) for part, path in source.items()}
            for name, source in raw["foundation_models"].items()
        }
        evaluation = raw["evaluation"]
        evaluation["datasets"] = {task: change(path) for task, path in evaluation["datasets"].items()}
        evaluation["task_dirs"] = [change(path) for path in evaluation["task_dirs"]]
        evaluation["model_args"] = changed_arguments(evaluation["model_args"], lambda _, value: change(value))
        return Config.model_validate(raw)

    # ------------------------------------------------------------------------------------------------- unfinished work

    def staged(self, purpose: str) -> Path:
        """Make an empty staging folder for one piece of work; delete the files of an earlier attempt."""
        refuse_links(self.root)
        path = self.staging / purpose
        remove(path)
        path.mkdir(parents=True)
        return path

    def request_cache(self, key: str) -> Path:
        """Return the path stem of the request cache of a score; its files outlive an interrupted evaluation."""
        settings, _, selection = key.partition("/")
        # The hash is last, so that no name is the beginning of another.
        return self.staging / f"{_REQUESTS}{selection}-{settings}"

    @staticmethod
    def delete_request_cache(stem: Path) -> None:
        """Delete the files of a request cache."""
        for path in stem.parent.glob(f"{stem.name}*"):
            path.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------------- the whole folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Return the run in an existing folder; raise RunFolderError if there is none."""
        folder = cls(_absolute(path))
        try:
            if not path.is_dir():
                problem = "is a file, not a run folder" if path.exists() else "there is no such folder"
                raise RunFolderError(
                    f"{path}: {problem}; give the folder of a run, for example runs/demo. `evolve run` makes the "
                    "folder after its checks; if it was interrupted before that, start it again"
                )
            if folder.journal.exists():
                return folder
            kept = rescues(folder.journal)
        except OSError as error:
            raise RunFolderError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
        if kept:
            raise RunFolderError(
                f"{path}: its journal is missing, and {kept[-1].name} has what was rescued of it; restore it by "
                f"`{shlex.join(['mv', str(kept[-1]), str(folder.journal)])}`"
            )
        raise RunFolderError(f"{path}: is not a run (journal.jsonl is missing); give the folder of a run")

    @classmethod
    def prepare(cls, path: Path) -> RunFolder:
        """Check that a folder can be used for a new or a resumed run; `create` makes it.

        Raises:
            RunFolderError: The path is a file, is not writable, has links, or is a folder that is not empty and not a
                run.
        """
        folder = cls(_absolute(path))
        try:
            if path.exists() and not path.is_dir():
                raise RunFolderError(f"{path}: is a file; give a folder for the run by --run-dir")
            existing = path if path.exists() else next(parent for parent in folder.root.parents if parent.exists())
            if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
                raise RunFolderError(
                    f"{path}: cannot be written ({existing} is not writable); choose another --run-dir"
                )
            others = folder.other_files() if path.exists() and not folder.journal.exists() else []
        except OSError as error:
            raise RunFolderError(f"{path}: cannot be used ({error.strerror}); choose another --run-dir") from None
        if others:
            raise RunFolderError(
                f"{path}: is not empty and is not a run ({', '.join(others[:3])}); choose another --run-dir"
            )
        refuse_links(folder.root)
        return folder

    def other_files(self) -> list[str]:
        """Return the names in the folder, except those of files that a run writes before its journal."""
        names = sorted(item.name for item in self.root.iterdir() if item.name not in _OURS)
        return [name for name in names if not name.startswith((".driver.json.", ".progress.json."))]

    def create(self) -> None:
        """Make the folder and its missing parents durably.

        Raises:
            RunFolderError: The folder cannot be made.
        """
        try:
            missing = [path for path in (self.root, *self.root.parents) if not path.exists()]
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if full_disk(error) is not None:
                raise
            raise RunFolderError(f"{self.root}: cannot be made ({error.strerror}); choose another --run-dir") from error
        for path in missing:
            sync_folder(path.parent)
        fault_point("folder.created")

    def make_folders(self) -> None:
        """Make the subfolders; call this after the journal exists, which marks the folder as a run."""
        for name in _FOLDERS:
            (self.root / name).mkdir(exist_ok=True)
        sync_folder(self.root)

    def tidy(self, *, finished: bool = False) -> None:
        """Delete the unfinished work of an earlier driver; no other process may drive the run.

        Request caches are kept until the run has finished, so that an interrupted evaluation can resume.
        """
        refuse_links(self.root)
        for path in self.staging.iterdir():
            if finished or not _is_request_cache(path):
                remove(path)
        self.progress.unlink(missing_ok=True)  # left by a driver that was killed
        for parent in (self.root, *(self.root / name for name in _FOLDERS)):
            for path in parent.iterdir():
                if _LEFTOVER.fullmatch(path.name):
                    remove(path)

    def is_complete(self, tree: FamilyTree) -> bool:
        """Return whether a finished run has all files that follow from its journal, and no unfinished work."""
        recipes = [self.recipe(model.name) for model in tree.models if model.recipe is not None]
        if not self.config.exists() or not all(path.exists() for path in recipes):
            return False
        if self.progress.exists() or (self.staging.exists() and any(self.staging.iterdir())):
            return False
        try:
            return bool(read_json(self.family_tree, MOST_MODEL_JSON) == to_node_link(tree))
        except (OSError, ValueError):
            return False

    def has_begun(self) -> bool:
        """Return whether the journal has an event; raise RunFolderError if the journal cannot be read."""
        return self.journal.exists() and bool(read_journal(self.journal))

    def read_tree(self) -> FamilyTree:
        """Return the family tree of the journal; raise RunFolderError if the run has not begun."""
        events = read_journal(self.journal)
        if not events:
            raise RunFolderError(f"{self.root}: the run has not begun yet; start it by `evolve run CONFIG`")
        return tree_of(events, self.journal)

    def write_tree(self, tree: FamilyTree) -> None:
        """Rewrite family_tree.json."""
        replace_json(self.family_tree, to_node_link(tree))

    def write_config(self, config: Config) -> None:
        """Rewrite config.yaml."""
        replace_text(self.config, dump_config(config))


def _absolute(path: Path) -> Path:
    """Return the absolute form of a path that the journal can hold."""
    try:
        absolute = path.absolute()
        str(absolute).encode()
    except UnicodeEncodeError:
        raise RunFolderError(f"{path}: its path is not UTF-8; rename the folder, or give another --run-dir") from None
    return absolute


def _is_request_cache(path: Path) -> bool:
    return path.name.startswith(_REQUESTS) and path.is_file() and not path.is_symlink()
