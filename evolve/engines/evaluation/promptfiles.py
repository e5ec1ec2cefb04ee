"""The requests of a task without their documents, in memory and as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

__all__ = ["Prompts", "Request", "prompts_of", "prompts_schema", "prompts_table"]

_KINDS = {"loglikelihood", "loglikelihood_rolling", "generate_until"}


@dataclass(frozen=True, slots=True)
class Request:
    """One request without its document.

    Attributes:
        kind: lm-eval's type of the request.
        index: Number of the request among those of its document.
        texts: The arguments that are text.
        options: JSON of the last argument if that is a dictionary.
    """

    kind: str
    index: int
    texts: tuple[str, ...]
    options: str | None

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The arguments for lm-eval; each call makes a new dictionary, as lm-eval does."""
        return self.texts if self.options is None else (*self.texts, json.loads(self.options))


@dataclass(frozen=True)
class Prompts:
    """The requests of the first documents of a task.

    Attributes:
        documents: Requests by the number of the document.
        complete: Whether these are all documents.
    """

    documents: Mapping[int, tuple[Request, ...]]
    complete: bool

    def cover(self, limit: int | None) -> bool:
        """Return whether the requests of the first `limit` documents are here; None: of all."""
        return self.complete or (limit is not None and limit <= len(self.documents))


def prompts_schema() -> Any:
    """Return the `pyarrow.Schema` of a table of prompts."""
    import pyarrow

    text = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    return pyarrow.schema(
        [
            ("item", pyarrow.int64()),
            ("index", pyarrow.int32()),
            ("kind", text),
            ("context", text),
            ("continuation", text),
            ("options", text),
        ]
    )


def prompts_table(prompts: Prompts) -> Any:
    """Return prompts as a table; equal texts are stored once."""
    import pyarrow

    rows = [(item, request) for item, requests in prompts.documents.items() for request in requests]
    schema = prompts_schema()
    columns: Sequence[list[Any]] = (
        [item for item, _ in rows],
        [request.index for _, request in rows],
        [request.kind for _, request in rows],
        [request.texts[0] for _, request in rows],
        [request.texts[1] if len(request.texts) > 1 else None for _, request in rows],
        [request.options for _, request in rows],
    )
    arrays = [
        pyarrow.array(column, pyarrow.string()).dictionary_encode()
        if pyarrow.types.is_dictionary(field.type)
        else pyarrow.array(column, field.type)
        for column, field in zip(columns, schema, strict=True)
    ]
    return pyarrow.table(arrays, schema=schema.with_metadata({"complete": json.dumps(prompts.complete)}))


def prompts_of(table: Any) -> Prompts:
    """Return the prompts of a table; raise ValueError if a value is impossible."""
    if any(table.column(name).null_count for name in ("item", "index", "kind", "context")):
        raise ValueError("a value is missing")
    columns = [_values(table.column(name)) for name in table.column_names]
    if not _KINDS.issuperset(columns[2]) or any(
        not isinstance(json.loads(text), dict) for text in {*columns[5]} - {None}
    ):
        raise ValueError("a request has another form")
    documents: dict[int, tuple[Request, ...]] = {}
    for item, rows in groupby(zip(*columns, strict=True), key=lambda row: row[0]):
        documents[item] = tuple(
            Request(kind, index, (context,) if continuation is None else (context, continuation), options)
            for _, index, kind, context, continuation, options in rows
        )
    return Prompts(documents, (table.schema.metadata or {}).get(b"complete") == b"true")


def _values(column: Any) -> list[Any]:
    """Return the values of a column; equal texts are one object."""
    import pyarrow

    if not pyarrow.types.is_dictionary(column.type):
        return list(column.to_pylist())
    found: list[Any] = []
    for chunk in column.chunks:
        texts = chunk.dictionary.to_pylist()
        found.extend(None if index is None else texts[index] for index in chunk.indices.to_pylist())
    return found
