"""The rescue of a journal: its events in a new file, because someone deleted, replaced or changed it during the run."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

from evolve.run.durable import create_file, sync_folder

__all__ = ["rescue", "rescues"]


def rescue(journal: Path, data: bytes) -> Path | None:
    """Write the content of a journal to a new file beside it; return None if the folder is gone."""
    for number in count(1):
        path = _path(journal, number)
        try:
            with create_file(path) as file:
                file.write(data.decode())
                file.flush()
                os.fsync(file.fileno())
            sync_folder(path.parent)
        except FileExistsError:
            continue
        except (FileNotFoundError, NotADirectoryError):
            break
        return path
    return None


def rescues(journal: Path) -> list[Path]:
    """Return the files that `rescue` wrote, oldest first."""
    found: list[Path] = []
    for number in count(1):
        path = _path(journal, number)
        if not path.is_file():
            return found
        found.append(path)
    return found


def _path(journal: Path, number: int) -> Path:
    suffix = "" if number == 1 else f"-{number}"
    return journal.with_name(f"{journal.stem}.rescued{suffix}{journal.suffix}")
