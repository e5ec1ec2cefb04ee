"""Files that `pyarrow` reads: it opens them in C++, which no audit hook of Python reports."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

__all__ = ["arrow_files"]


@contextmanager
def arrow_files(note: Callable[[str], None]) -> Iterator[None]:
    """Call `note` with the absolute path of each file that the readers of `pyarrow` open by its name in this block."""
    import pyarrow
    from pyarrow import csv, dataset, feather, json, parquet

    readers: tuple[tuple[Any, str], ...] = (
        (pyarrow, "memory_map"),
        (csv, "open_csv"),
        (csv, "read_csv"),
        (dataset, "dataset"),
        (feather, "read_feather"),
        (feather, "read_table"),
        (json, "read_json"),
        (parquet.ParquetDataset, "__init__"),
        (parquet.ParquetFile, "__init__"),
    )
    with ExitStack() as stack:
        for owner, name in readers:
            stack.enter_context(mock.patch.object(owner, name, _noting(getattr(owner, name), note)))
        yield


def _noting(read: Callable[..., Any], note: Callable[[str], None]) -> Callable[..., Any]:
    def noting(*arguments: Any, **options: Any) -> Any:
        for value in (*arguments[:2], *options.values()):  # the first is the object if this is a method
            for path in _files(value):
                note(path)
        return read(*arguments, **options)

    return noting


def _files(value: Any) -> Iterator[str]:
    """Yield the files that an argument names, by their path or that of their folder."""
    for part in value if isinstance(value, list | tuple) else (value,):
        if isinstance(part, str | os.PathLike):
            path = Path(os.path.abspath(os.fspath(part)))  # noqa: PTH100 - a link stays a link
            yield from map(str, filter(Path.is_file, path.rglob("*") if path.is_dir() else (path,)))
