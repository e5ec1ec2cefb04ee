"""The run folder: where everything of a run lies.

The journal is the truth; all else can be deleted and made again from it and from the checkpoints.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from evolve.config import Config, dump_config
from evolve.errors import RunFolderError
from evolve.lineage import FamilyTree, Model, to_node_link
from evolve.run.durable import NO_ROOM, remove, replace_json, replace_text, sync_folder
from evolve.run.faults import fault_point
from evolve.run.journal import read_journal, tree_of

__all__ = ["RunFolder"]

_OURS = {".lock", "driver.json", "config.yaml", "journal.jsonl", "family_tree.json", "run.log"}
_FOLDERS = ("recipes", "models", "evals", "staging")
_IDENTITIES = "identities.json"
_HASHES = "hashes.json"


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run, all under `root`, which is absolute."""

    root: Path

    @property
    def journal(self) -> Path:
        """The truth."""
        return self.root / "journal.jsonl"

    @property
    def config(self) -> Path:
        """The whole configuration, every default spelt out."""
        return self.root / "config.yaml"

    @property
    def family_tree(self) -> Path:
        """networkx node-link data of the tree as it stands."""
        return self.root / "family_tree.json"

    @property
    def log(self) -> Path:
        """What the driver and the engines had to say."""
        return self.root / "run.log"

    @property
    def staging(self) -> Path:
        """Unfinished work; may be deleted while nothing drives the run."""
        return self.root / "staging"

    @property
    def identities(self) -> Path:
        """Identities of the foundations as they were last seen; kept, so that resuming a run reads no weights again."""
        return self.staging / _IDENTITIES

    @property
    def hashes(self) -> Path:
        """Hashes of the children's files as they were last seen; kept for the same reason."""
        return self.staging / _HASHES

    @property
    def scores(self) -> Path:
        """The score store, which the runs beside this one share."""
        return self.root.parent / ".scores"

    @property
    def adapters(self) -> Path:
        """Adapters merged into their models, which the runs beside this one share."""
        return self.root.parent / ".adapters"

    @property
    def converted(self) -> Path:
        """Models whose pickled weights were converted, which the runs beside this one share."""
        return self.root.parent / ".converted"

    def recipe(self, model: str) -> Path:
        """The recipe of a child, as mergekit-yaml takes it."""
        return self.root / "recipes" / f"{model}.yaml"

    def checkpoint(self, model: str) -> Path:
        """The checkpoint of a child."""
        return self.root / "models" / model

    def evaluation(self, model: str) -> Path:
        """lm-eval's results and samples of a model."""
        return self.root / "evals" / model

    def relative(self, path: Path) -> str:
        """A path as the journal and the tree give it."""
        return path.relative_to(self.root).as_posix()

    def locate(self, model: Model) -> Path:
        """The checkpoint folder of a model that has one: absolute for a foundation, of this folder for a child."""
        if model.checkpoint is None:
            raise ValueError(f"{model.name} has no checkpoint")
        return self.root / model.checkpoint

    def staged(self, purpose: str) -> Path:
        """A new, empty staging folder for one piece of work; what an earlier attempt left there is gone."""
        path = self.staging / purpose
        if path.exists():
            remove(path)
        path.mkdir(parents=True)
        return path

    # --------------------------------------------------------------------------------------------------- whole

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The run in an existing folder; RunFolderError where there is none."""
        folder = cls(path.absolute())
        if not path.is_dir():
            what = "is a file, not a run folder" if path.exists() else "there is no such folder"
            raise RunFolderError(f"{path}: {what}; give the folder of a run, for example runs/demo")
        if not folder.journal.is_file():
            raise RunFolderError(f"{path}: holds no run (it has no journal.jsonl); give the folder of a run")
        return folder

    @classmethod
    def prepare(cls, path: Path) -> RunFolder:
        """A folder for a new run or one that goes on; checked to be usable, and made only by `create`.

        Raises:
            RunFolderError: It is a file, not writable, or holds something that is no run.
        """
        folder = cls(path.absolute())
        try:
            if path.exists() and not path.is_dir():
                raise RunFolderError(f"{path}: is a file; give a folder for the run by --run-dir")
            existing = path if path.exists() else next(parent for parent in path.absolute().parents if parent.exists())
            if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
                raise RunFolderError(
                    f"{path}: cannot be written ({existing} is not writable); choose another --run-dir"
                )
            others = folder.strangers() if path.exists() and not folder.journal.exists() else []
        except OSError as error:
            raise RunFolderError(f"{path}: cannot be used ({error.strerror}); choose another --run-dir") from None
        if others:
            raise RunFolderError(
                f"{path}: holds something that is no run ({', '.join(others[:3])}); choose another --run-dir"
            )
        return folder

    def strangers(self) -> list[str]:
        """Names in the folder that no run makes before its journal."""
        names = sorted(item.name for item in self.root.iterdir() if item.name not in _OURS)
        return [name for name in names if not (name.startswith(".driver.json.") and name.endswith(".tmp"))]

    def create(self) -> None:
        """Make the folder; durable, as are the names of the folders above that had to be made.

        Raises:
            RunFolderError: The file system does not let it be made.
        """
        try:
            missing = [path for path in (self.root, *self.root.parents) if not path.exists()]
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
            raise RunFolderError(f"{self.root}: cannot be made ({error.strerror}); choose another --run-dir") from error
        for path in missing:
            sync_folder(path.parent)
        fault_point("folder.created")

    def furnish(self) -> None:
        """Make the folders in it; only after the journal, which says that they are a run's."""
        for name in _FOLDERS:
            (self.root / name).mkdir(exist_ok=True)
        sync_folder(self.root)

    def tidy(self, *, finished: bool = False) -> None:
        """Clear what unfinished work of an earlier driver left behind; nobody else may drive the run.

        Answers that an evaluation can go on from stay, and known identities and hashes, unless the run is finished.
        """
        for path in self.staging.iterdir():
            if finished or not (path.name.startswith("requests-") or path.name in {_IDENTITIES, _HASHES}):
                remove(path)
        for parent in (self.root, *(self.root / name for name in _FOLDERS)):
            for pattern in (".*.gone", ".*.tmp"):
                for path in parent.glob(pattern):
                    remove(path)

    def is_complete(self, tree: FamilyTree) -> bool:
        """Whether a finished run's folder has all files that follow from its journal, and nothing unfinished."""
        recipes = [self.recipe(model.name) for model in tree.models if model.recipe is not None]
        if not self.config.exists() or not all(path.exists() for path in recipes):
            return False
        if self.staging.exists() and any(self.staging.iterdir()):
            return False
        try:
            return bool(json.loads(self.family_tree.read_text(encoding="utf-8")) == to_node_link(tree))
        except (OSError, ValueError):
            return False

    def has_begun(self) -> bool:
        """Whether the journal has an event; RunFolderError where it cannot be read."""
        return self.journal.exists() and bool(read_journal(self.journal))

    def read_tree(self) -> FamilyTree:
        """The family tree of the journal, which must have begun."""
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
