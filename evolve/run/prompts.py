"""Moves prompts that an evaluation built beside the score store, after the driver has checked that no input changed."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

__all__ = ["share_prompts"]

_LOG = logging.getLogger("evolve.run")


def share_prompts(scored: Path, folder: Path) -> None:
    """Move the tables of prompts from the folder of a score into the folder that runs share.

    A table is written only where the folder has none that suffices, so it replaces those of its stem. A partial copy
    does no harm: the name of a table ends with the hash of its content. Errors are logged, because this only saves
    work.

    Args:
        scored: The staging folder of a score.
        folder: The folder of the task's prompts in these settings.
    """
    for table in scored.glob("prompts-*.parquet"):
        stem = table.name.rpartition("-")[0]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if folder.is_symlink():
                raise OSError(None, "is a link; delete it", str(folder))  # noqa: TRY301 - handled as other errors are
            older = [path for path in folder.glob(f"{stem}-*.parquet") if path.name != table.name]
            shutil.move(table, folder / table.name)
            for path in older:
                path.unlink(missing_ok=True)
        except OSError as error:
            _LOG.warning("%s: prompts are not shared with later runs (%s)", folder, error)
            table.unlink(missing_ok=True)
