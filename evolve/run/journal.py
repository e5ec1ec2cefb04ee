"""The journal: an append-only file of events, one JSON object a line, fsynced, with one writer.

A line is `{"seq": n, "at": "<UTC time>", "event": {...}, "crc": "<CRC-32 of all before this key>"}`. A last line
without its newline never happened: readers pass over it, and the writer cuts it off before it appends.
"""

from __future__ import annotations

import errno
import io
import json
import os
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import ValidationError

from evolve.errors import RunFolderError
from evolve.lineage import SCHEMA, Event, FamilyTree, event_adapter
from evolve.run.durable import sync_folder
from evolve.run.faults import fault_point

__all__ = ["Journal", "read_journal", "tree_of"]

_KEYS = {"seq", "at", "event", "crc"}
_SEAL = b', "crc": "'


def read_journal(path: Path) -> list[Event]:
    """All events of a journal, in order.

    Raises:
        RunFolderError: The file is missing, a line of it is damaged, or a newer version of evolve wrote it.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise RunFolderError(f"{path}: there is no journal; give the folder of a run") from None
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    return list(_events(data, path))


def _events(data: bytes, path: Path) -> Iterator[Event]:
    whole = data[: data.rfind(b"\n") + 1]
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        where = f"{path}: line {number}"
        if number == 1:
            _refuse_newer(line, path)
        try:
            sequence, event = _opened(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RunFolderError(f"{where} is damaged; restore the journal from a copy of the run folder") from None
        if sequence != number:
            raise RunFolderError(f"{where} has number {sequence}, so a line is missing or doubled; restore the journal")
        try:
            yield event_adapter.validate_python(event)
        except ValidationError as error:
            first = error.errors()[0]
            problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise RunFolderError(f"{where} is damaged ({problem}); restore the journal from a copy") from None


def _opened(line: bytes) -> tuple[Any, Any]:
    """Number and event of a line; any other error than RecursionError is a ValueError, KeyError or TypeError."""
    entry = json.loads(line)
    if entry["crc"] != _crc(line[: line.rindex(_SEAL)]) or set(entry) != _KEYS:
        raise ValueError("its checksum differs")
    return entry["seq"], entry["event"]


def _sealed(entry: dict[str, Any]) -> bytes:
    """The line of an entry, with the checksum that tells a damaged line from a whole one."""
    body = json.dumps(entry, ensure_ascii=False, allow_nan=False).encode()[:-1]
    return body + _SEAL + _crc(body).encode() + b'"}\n'


def _crc(body: bytes) -> str:
    return f"{zlib.crc32(body):08x}"


def tree_of(events: list[Event], path: Path) -> FamilyTree:
    """The family tree of a journal's events; RunFolderError, with the line, where one contradicts those before it."""
    tree = FamilyTree()
    for number, event in enumerate(events, start=1):
        try:
            tree.apply(event)
        except (ValueError, KeyError) as error:
            raise RunFolderError(
                f"{path}: line {number} contradicts those before it ({error}); restore the journal from a copy"
            ) from error
    return tree


def _refuse_newer(line: bytes, path: Path) -> None:
    """Before all else: whatever a newer version has changed, its first line gives its schema in this place."""
    try:
        schema = json.loads(line)["event"]["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    if isinstance(schema, int) and schema > SCHEMA:
        raise RunFolderError(
            f"{path}: was written by a newer version of evolve (journal schema {schema}, this version reads up to "
            f"{SCHEMA}); upgrade evolve"
        )


class Journal:
    """The one writer of a journal; the caller holds the lock of the run folder.

    Opening cuts a torn last line off. Use as a context manager.

    Attributes:
        events: What was in the journal when it was opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[Event] = read_journal(path) if path.exists() else []
        self._length = len(self.events)
        is_new = not path.exists()
        self._file: io.FileIO = path.open("ab", buffering=0)
        self._cut_torn_line()
        if is_new:
            sync_folder(path.parent)

    def append(self, event: Event) -> None:
        """Write an event and wait until it is on the disk; OSError leaves the journal as it was."""
        entry = {
            "seq": self._length + 1,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": event.model_dump(mode="json"),
        }
        line = _sealed(entry)
        size = self._file.tell()
        fault_point("journal.before_write")
        try:
            self._write(line)
            fault_point("journal.after_write")
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(size)
            self._file.seek(size)
            raise
        fault_point("journal.after_fsync")
        self._length += 1

    def _write(self, line: bytes) -> None:
        if self._file.write(line) != len(line):  # a disk that fills up takes a part of the line without complaint
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def close(self) -> None:
        """Close the file; the journal cannot be appended to any more."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _cut_torn_line(self) -> None:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            self._file.truncate(whole)
            os.fsync(self._file.fileno())
        self._file.seek(0, os.SEEK_END)
