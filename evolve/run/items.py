"""The values of items: one file for all tasks of a model, which pandas reads in one line."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evolve.engines.protocols import ITEM_COLUMNS, ITEMS_FILE, task_folder
from evolve.errors import RunFolderError
from evolve.files import MOST_RECORD, read_bytes
from evolve.parquet import parquet_bytes

__all__ = ["join_items", "read_items"]

_LOG = logging.getLogger("evolve.run")
_LARGEST = 1e50  # of a value; sums and squares of larger ones could overflow


def join_items(folder: Path, tasks: Iterable[str]) -> None:
    """Write the values of items of all tasks of a model into one file, in the folder of its scores.

    A task whose metric is not a mean over items has no values. If no task has any, there is no file. A file that cannot
    be read, as one from a damaged score store, is left out with a warning.

    Args:
        folder: The staging folder with a folder for each task.
        tasks: The tasks, in the order of the file.
    """
    paths = [folder / task_folder(task) / ITEMS_FILE for task in tasks]
    tables = []
    for path in paths:
        if path.is_file():
            try:
                tables.append(_table(path))
            except (OSError, ValueError) as error:
                _LOG.warning("%s: its values of items are left out (%s)", path, error)
    if tables:
        import pyarrow as pa

        (folder / ITEMS_FILE).write_bytes(parquet_bytes(pa.concat_tables(tables)))


def read_items(path: Path) -> Mapping[str, Mapping[int, float]]:
    """Return the values of items by lm-eval task and item id.

    Args:
        path: A file `items.parquet` of a model or of a task.

    Raises:
        RunFolderError: There is no such file, or it is damaged, or a value is not finite.
    """
    found: dict[str, dict[int, float]] = {}
    try:
        columns = [_table(path)[name].to_pylist() for name in ("task", "item", "value")]
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: the values of items cannot be read ({error}); {_again(path)}") from error
    for task, item, value in zip(*columns, strict=True):
        if not abs(value) <= _LARGEST:  # not a number is neither
            raise RunFolderError(f"{path}: has the impossible value {value} of item {item}; {_again(path)}")
        found.setdefault(task, {})[item] = value
    return found


def _again(path: Path) -> str:
    return f"delete the folder {path.parent}, and the model is scored again"


def _table(path: Path) -> Any:
    """Return the table in a file; raise OSError or ValueError if it has not all columns in full."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([pa.field(name, pa.type_for_alias(kind), nullable=False) for name, kind in ITEM_COLUMNS.items()])
    content = io.BytesIO(read_bytes(path, MOST_RECORD))
    try:
        return parquet.read_table(content, use_threads=False).cast(schema)
    except pa.ArrowException as error:  # not all of them are ValueErrors
        raise ValueError(str(error)) from error
