"""Tables that only save work: Parquet files whose names end with the hash of their content.

Several runs may read and write them at the same time, and they may be deleted at any time. A file that is damaged or
not ours is ignored with a warning. Errors of the disk are logged and never end an evaluation.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from evolve.files import read_bytes
from evolve.parquet import parquet_bytes

__all__ = ["has_table", "read_table", "write_table"]

_MOST = 2 << 30  # bytes of a file
_MOST_ROWS = 1 << 26
_OLD = 3600  # seconds after which an unfinished file was left by a killed process

_Parsed = TypeVar("_Parsed")

_log = logging.getLogger("evolve.engines.evaluation")


def has_table(folder: Path, stem: str) -> bool:
    """Return whether a folder has a file of this stem; it may be damaged."""
    return any(folder.glob(f"{stem}-*.parquet"))


def read_table(folder: Path, stem: str, schema: Any, parse: Callable[[Any], _Parsed]) -> _Parsed | None:
    """Return what the largest usable table of a stem says, or None.

    Args:
        folder: The folder, which need not exist.
        stem: Beginning of the file's name.
        schema: The table's `pyarrow.Schema`.
        parse: Makes the result of a `pyarrow.Table`; raises ValueError if its values are impossible.
    """
    import pyarrow

    for path in sorted(folder.glob(f"{stem}-*.parquet"), key=_size, reverse=True):
        try:
            return parse(_table(path, stem, schema))
        except FileNotFoundError:
            continue  # another run has replaced it
        except (OSError, ValueError, MemoryError, pyarrow.ArrowException) as error:
            _log.warning("%s: is ignored and written anew (%s)", path, error)
    return None


def write_table(folder: Path, stem: str, table: Any) -> None:
    """Write a table atomically and delete the smaller ones of its stem."""
    data = parquet_bytes(table)
    target = folder / _name(stem, data)
    temporary = folder / f".{target.name}.{os.getpid()}.tmp"
    if folder.is_symlink():
        _log.warning("%s: is a link, so prompts and tokens are not kept for later evaluations; delete it", folder)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # left by an earlier process with the same process id
        with temporary.open("xb") as file:
            file.write(data)
        temporary.replace(target)
        _tidy(folder, stem, target)
    except OSError as error:
        _log.warning("%s: prompts or tokens are not kept for later evaluations (%s)", folder, error)
        _unlink(temporary)


def _tidy(folder: Path, stem: str, target: Path) -> None:
    """Delete smaller or damaged tables of the same stem, and what killed processes left."""
    for path in folder.glob(f"{stem}-*.parquet"):
        if path != target and (_size(path) <= _size(target) or _name(stem, read_bytes(path, _MOST)) != path.name):
            _unlink(path)
    for path in folder.glob(".*.tmp"):
        if time.time() - path.lstat().st_mtime > _OLD:
            _unlink(path)


def _table(path: Path, stem: str, schema: Any) -> Any:
    """Return the table of a file; raise OSError, ValueError or an error of pyarrow if it is damaged or another."""
    import pyarrow
    from pyarrow import parquet

    data = read_bytes(path, _MOST)
    if _name(stem, data) != path.name:
        raise ValueError("its content is not that of its name")
    file = parquet.ParquetFile(pyarrow.BufferReader(data))
    if file.metadata.num_rows > _MOST_ROWS or not file.schema_arrow.equals(schema):
        raise ValueError("it is another kind of table")
    table = file.read()
    table.validate(full=True)
    return table


def _name(stem: str, data: bytes) -> str:
    return f"{stem}-{hashlib.sha256(data).hexdigest()[:32]}.parquet"


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("%s: cannot be deleted (%s)", path, error)
