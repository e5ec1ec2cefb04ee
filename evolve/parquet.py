"""The one form in which evolve writes tables."""

from __future__ import annotations

from typing import Any

__all__ = ["parquet_bytes"]


def parquet_bytes(table: Any) -> bytes:
    """Return a `pyarrow.Table` as the content of a Parquet file, which the caller writes.

    pyarrow's own writing to a path hides the error number of a full disk.
    """
    import pyarrow
    from pyarrow import parquet

    sink = pyarrow.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content
