"""The journal: an append-only file of events, one JSON object per line, synced to the disk, with one writer.

A line is `{"seq": n, "at": "<UTC time>", "event": {...}, "crc": "<CRC-32 of the bytes before this key>"}`. Readers
ignore an incomplete last line, and the writer cuts it off before it appends.
"""

from __future__ import annotations

import errno
import io
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import ValidationError

from evolve.errors import RunFolderError
from evolve.lineage import SCHEMA, Event, FamilyTree, event_adapter
from evolve.run.durable import sync_folder
from evolve.run.faults import fault_point

__all__ = ["Entry", "Journal", "read_journal", "tree_of", "utc_now"]

_KEYS = {"seq", "at", "event", "crc"}
_SEAL = b', "crc": "'


@dataclass(frozen=True)
class Entry:
    """One entry of a journal.

    Attributes:
        at: The UTC time of the event in ISO format.
        event: The event.
    """

    at: str
    event: Event


def utc_now() -> str:
    """Return the current time in the format of the journal: UTC, ISO, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def read_journal(path: Path) -> list[Entry]:
    """Return all entries of a journal, in order.

    Raises:
        RunFolderError: The file is missing, a line is damaged, or a newer version of evolve wrote it.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise RunFolderError(f"{path}: is missing; give the folder of a run") from None
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    return list(_entries(data, path))


def _entries(data: bytes, path: Path) -> Iterator[Entry]:
    complete = data[: data.rfind(b"\n") + 1]
    for number, line in enumerate(complete.split(b"\n")[:-1], start=1):
        where = f"{path}: line {number}"
        if number == 1:
            _refuse_newer(line, path)
        try:
            sequence, at, event = _parsed(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RunFolderError(f"{where} is damaged; restore the journal from a copy of the run folder") from None
        if sequence != number:
            raise RunFolderError(f"{where} has number {sequence}: a line is missing or repeated; restore the journal")
        try:
            yield Entry(at, event_adapter.validate_python(event))
        except ValidationError as error:
            first = error.errors()[0]
            problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise RunFolderError(f"{where} is damaged ({problem}); restore the journal from a copy") from None


def _parsed(line: bytes) -> tuple[Any, str, Any]:
    """Parse number, time and event of a line; raise ValueError, KeyError, TypeError or RecursionError if damaged."""
    entry = json.loads(line)
    if entry["crc"] != _crc(line[: line.rindex(_SEAL)]) or set(entry) != _KEYS:
        raise ValueError("its checksum differs")
    if not isinstance(entry["at"], str):
        raise TypeError("its time is not a string")
    return entry["seq"], entry["at"], entry["event"]


def _sealed(entry: dict[str, Any]) -> bytes:
    """Return the line of an entry with its checksum."""
    body = json.dumps(entry, ensure_ascii=False, allow_nan=False).encode()[:-1]
    return body + _SEAL + _crc(body).encode() + b'"}\n'


def _crc(body: bytes) -> str:
    return f"{zlib.crc32(body):08x}"


def tree_of(entries: Sequence[Entry], path: Path) -> FamilyTree:
    """Return the family tree of a journal's entries.

    Raises:
        RunFolderError: An event contradicts those before it; the message gives its line in `path`.
    """
    tree = FamilyTree()
    for number, entry in enumerate(entries, start=1):
        try:
            tree.apply(entry.event, entry.at)
        except (ValueError, KeyError) as error:
            raise RunFolderError(
                f"{path}: line {number} contradicts the lines before it ({error}); restore the journal from a copy"
            ) from error
    return tree


def _refuse_newer(line: bytes, path: Path) -> None:
    """Refuse a newer schema; the first line gives the schema under the same keys in every version."""
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
    """The only writer of a journal, a context manager. The caller holds the lock of the run folder.

    Opening the journal cuts off an incomplete last line.

    Attributes:
        entries: The entries that the journal had when it was opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = read_journal(path) if path.exists() else []
        self._length = len(self.entries)
        is_new = not path.exists()
        self._file: io.FileIO = path.open("ab", buffering=0)
        self._cut_torn_line()
        if is_new:
            sync_folder(path.parent)

    def append(self, event: Event, at: str | None = None) -> str:
        """Write an event and sync it to the disk; after an OSError the journal is unchanged.

        Args:
            event: The event.
            at: Its time, from `utc_now`; None: the current time.

        Returns:
            The time of the event.
        """
        at = at or utc_now()
        line = _sealed({"seq": self._length + 1, "at": at, "event": event.model_dump(mode="json")})
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
        return at

    def clear(self) -> None:
        """Delete all entries, for a run that begins anew because none of them is a score."""
        self._file.truncate(0)
        os.fsync(self._file.fileno())
        self._file.seek(0)
        self.entries, self._length = [], 0

    def _write(self, line: bytes) -> None:
        if self._file.write(line) != len(line):  # a disk that fills up takes a part of the line without an error
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _cut_torn_line(self) -> None:
        data = self.path.read_bytes()
        complete = data.rfind(b"\n") + 1
        if complete < len(data):
            self._file.truncate(complete)
            os.fsync(self._file.fileno())
        self._file.seek(0, os.SEEK_END)
