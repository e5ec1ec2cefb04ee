"""A model's answers as a file, so that the same requests need no forward pass in a later evaluation."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evolve.engines.evaluation.request_cache import RequestCache
from evolve.parquet import parquet_bytes

__all__ = ["read_answers", "write_answers"]

_log = logging.getLogger("evolve.engines.evaluation")


def _schema() -> Any:
    """Return the columns: lm-eval's hash of the request, then the parts of its answer, then how often it was given.

    An answer is a log-likelihood with or without the flag `greedy`, or a text.
    """
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("method", pa.string(), nullable=False),
            pa.field("request", pa.binary(32), nullable=False),
            pa.field("number", pa.float64()),
            pa.field("greedy", pa.bool_()),
            pa.field("text", pa.string()),
            pa.field("times", pa.int64(), nullable=False),
        ]
    )


def write_answers(file: Path, instances: Iterable[Any], cache: RequestCache) -> None:
    """Write the answers to all requests of one task; sampled texts are left out, which lm-eval never answers again.

    Args:
        file: The Parquet file.
        instances: The answered requests.
        cache: Where their answers are.
    """
    import pyarrow as pa
    from lm_eval.api.model import hash_args

    rows: dict[str, dict[str, Any]] = {}
    for instance in instances:
        method, arguments = instance.request_type, instance.args
        request = hash_args(method, arguments)
        if request in rows or (method == "generate_until" and arguments[1].get("do_sample", False)):
            continue
        answer, times = cache.answer(request)
        row = _row(answer)
        if row is not None:
            rows[request] = {"method": method, "request": bytes.fromhex(request), "times": times, **row}
    table = pa.Table.from_pylist(list(rows.values()), schema=_schema())
    file.write_bytes(parquet_bytes(table))


def read_answers(files: Iterable[Path]) -> dict[str, tuple[Any, int]]:
    """Return the answers of some files by request, each with how often it was given.

    If several files answer a request, the one that gave it most often counts, and the first of those. A file that is
    damaged or is no such file is ignored, and this is logged.
    """
    found: dict[str, tuple[Any, int]] = {}
    for file in files:
        for request, answer, times in _read(file):
            if times > found.get(request, (None, 0))[1]:
                found[request] = (answer, times)
    return found


def _row(answer: Any) -> dict[str, Any] | None:
    """Return an answer as columns; None if it is not one of lm-eval's own kinds."""
    match answer:
        case str():
            return {"text": answer}
        case (float(number), bool(greedy)):
            return {"number": number, "greedy": greedy}
        case float():
            return {"number": answer}
    return None


def _read(file: Path) -> list[tuple[str, Any, int]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as opened:
            rows = opened.read().cast(_schema()).to_pylist()
        return [(row["request"].hex(), _answer(row), row["times"]) for row in rows]
    except (OSError, ValueError, pa.ArrowException) as error:
        _log.warning("%s: its answers are ignored, and computed again (%s)", file, error)
        return []


def _answer(row: dict[str, Any]) -> Any:
    number, greedy, text = row["number"], row["greedy"], row["text"]
    if (number is None) == (text is None) or (number is not None and math.isnan(number)) or row["times"] < 1:
        raise ValueError("a row is no answer")
    if text is not None:
        return text
    return number if greedy is None else (number, greedy)
