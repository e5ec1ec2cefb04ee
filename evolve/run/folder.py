"""The run folder: where everything of a run lies.

The journal is the truth; all else can be deleted and made again from it and from the checkpoints.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from evolve.config import Config, dump_config
from evolve.errors import RunFolderError
from evolve.lineage import FamilyTree, Model, fold, to_node_link
from evolve.run.durable import remove, replace_json, replace_text
from evolve.run.journal import read_journal

__all__ = ["RunFolder"]

_OURS = {".lock", "driver.json", "config.yaml", "journal.jsonl", "family_tree.json", "run.log"}


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
    def scores(self) -> Path:
        """The score store, which the runs beside this one share."""
        return self.root.parent / ".scores"

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
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"{path}: is a file; give a folder for the run by --run-dir")
        existing = path if path.exists() else next(parent for parent in path.absolute().parents if parent.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise RunFolderError(f"{path}: cannot be written ({existing} is not writable); choose another --run-dir")
        if path.exists() and not folder.journal.exists():
            others = sorted(item.name for item in path.iterdir() if item.name not in _OURS)
            if others:
                raise RunFolderError(
                    f"{path}: holds something that is no run ({', '.join(others[:3])}); choose another --run-dir"
                )
        return folder

    def create(self) -> None:
        """Make the folder and the folders in it."""
        for name in ("recipes", "models", "evals", "staging"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    def read_tree(self) -> FamilyTree:
        """The family tree of the journal, which must have begun."""
        events = read_journal(self.journal)
        if not events:
            raise RunFolderError(f"{self.root}: the run has not begun yet; start it by `evolve run CONFIG`")
        return fold(events)

    def write_tree(self, tree: FamilyTree) -> None:
        """Rewrite family_tree.json."""
        replace_json(self.family_tree, to_node_link(tree))

    def write_config(self, config: Config) -> None:
        """Rewrite config.yaml."""
        replace_text(self.config, dump_config(config))
