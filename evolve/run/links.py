"""Links in a run folder. A run folder may come from anyone, and no run writes or deletes outside it.

`models` and `evals` may be links, for example to a larger disk. All other files and folders of a run are what they are.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from evolve.errors import RunFolderError

__all__ = ["refuse_links"]

_FIXED = (
    ".lock",
    "config.yaml",
    "driver.json",
    "family_tree.json",
    "journal.jsonl",
    "progress.json",
    "recipes",
    "run.log",
    "staging",
)
_MARKS = {"models": "evolve.json", "evals": "*/score.json"}  # what an entry has that a run has made


def refuse_links(root: Path, names: Collection[str] = ()) -> None:
    """Refuse a run folder in which a file or folder that a run writes or deletes is a link.

    Args:
        root: The run folder; it may be a link itself.
        names: The names of the models of the run.

    Raises:
        RunFolderError: Such a link exists, or `models` or `evals` is a link to a folder of something else.
    """
    for name in _FIXED:
        _refuse(root / name)
    for place, mark in _MARKS.items():
        if (root / place).is_symlink():
            _check_target(root / place, mark, names)
    for name in names:
        _refuse(root / "recipes" / f"{name}.yaml")
        for place in _MARKS:
            for path in _contents(root / place / name):
                _refuse(path)


def _refuse(path: Path) -> None:
    if path.is_symlink():
        raise RunFolderError(
            f"{path}: is a link, and a run neither writes nor deletes through links; delete it, or replace it by what "
            "it names (only models and evals may be links)"
        )


def _check_target(link: Path, mark: str, names: Collection[str]) -> None:
    """Refuse a link to a folder that is missing, belongs to another run, or has other files under names of the run."""
    target, fix = link.resolve(), "link it to an empty folder, or delete the link"
    if not target.is_dir():
        raise RunFolderError(f"{link}: is a link to {target}, which is not a folder; {fix}")
    if (target.parent / "journal.jsonl").exists():
        raise RunFolderError(f"{link}: is a link into the run in {target.parent}; {fix}")
    for name in names:
        entry = target / name
        if entry.is_symlink() or (entry.exists() and not any(entry.glob(mark))):
            raise RunFolderError(f"{link}: is a link to {target}, where {name} is not of this run; {fix}")


def _contents(folder: Path) -> Iterator[Path]:
    """Yield a folder and everything in it; links are not followed."""
    yield folder
    if not folder.is_symlink():
        for root, folders, files in os.walk(folder):
            yield from (Path(root) / name for name in (*folders, *files))
