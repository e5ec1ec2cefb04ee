"""The journal: an append-only file of events, one JSON object per line, synced to the disk, with one writer.

A line is `{"seq": n, "at": "<UTC time>", "event": {...}, "crc": "<CRC-32 of the bytes before this key>"}`. Readers
ignore an incomplete last line, and the writer cuts it off before it appends. The writer locks the file, and it stops if
the file is no longer what it has written.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shlex
import stat
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from textwrap import shorten
from types import TracebackType
from typing import Any

from pydantic import ValidationError

from evolve.characters import escaped
from evolve.errors import RunError, RunFolderError
from evolve.files import UnreadableFileError, parse_json, read_bytes
from evolve.lineage import SCHEMA, Event, FamilyTree, event_adapter
from evolve.run.durable import sync_folder
from evolve.run.faults import fault_point
from evolve.run.lock import lock_file
from evolve.run.rescue import rescue

__all__ = ["Entry", "Journal", "read_journal", "tree_of", "utc_now"]

_KEYS = {"seq", "at", "event", "crc"}
_SEAL = b', "crc": "'
_MOST = 256 << 20
_MOST_LINE = 16 << 20
_MOST_SHOWN = 200


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
        data = read_bytes(path, _MOST)
    except FileNotFoundError:
        raise RunFolderError(f"{path}: is missing; give the folder of a run") from None
    except UnreadableFileError as error:
        raise RunFolderError(f"{error}; restore the journal from a copy of the run folder") from None
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
        except (ValueError, KeyError, TypeError, OverflowError):
            raise RunFolderError(f"{where} is damaged; restore the journal from a copy of the run folder") from None
        if sequence != number:
            raise RunFolderError(f"{where} has number {sequence}: a line is missing or repeated; restore the journal")
        try:
            yield Entry(at, event_adapter.validate_python(event))
        except ValidationError as error:
            raise RunFolderError(f"{where} is damaged ({_problem(error)}); restore the journal from a copy") from None


def _problem(error: Exception) -> str:
    """Return what is wrong with an event, in one line that names the field and its value."""
    if not isinstance(error, ValidationError):
        return shorten(str(error), _MOST_SHOWN)
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    value = f" = {shorten(repr(first['input']), _MOST_SHOWN // 2)}" if place else ""
    return shorten(f"{place}{value}: {first['msg'].removeprefix('Value error, ').partition(';')[0]}", 2 * _MOST_SHOWN)


def _parsed(line: bytes) -> tuple[Any, str, Any]:
    """Parse number, time and event of a line; raise ValueError, KeyError, TypeError or OverflowError if damaged."""
    if len(line) > _MOST_LINE:
        raise ValueError("it is too long")
    entry = parse_json(line, finite=True)
    if entry["crc"] != _crc(line[: line.rindex(_SEAL)]) or set(entry) != _KEYS:
        raise ValueError("its checksum differs")
    if not isinstance(entry["at"], str):
        raise TypeError("its time is not a string")
    datetime.fromisoformat(entry["at"]).astimezone(UTC)
    return entry["seq"], entry["at"], entry["event"]


def _sealed(entry: dict[str, Any]) -> bytes:
    """Return the line of an entry with its checksum."""
    body = escaped(json.dumps(entry, ensure_ascii=False, allow_nan=False)).encode()[:-1]
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
        except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
            raise RunFolderError(
                f"{path}: line {number} contradicts the lines before it ({_problem(error)}); restore the journal from "
                "a copy"
            ) from error
    return tree


def _refuse_newer(line: bytes, path: Path) -> None:
    """Refuse a newer schema; the first line gives the schema under the same keys in every version."""
    try:
        schema = parse_json(line)["event"]["schema_version"]
    except (ValueError, KeyError, TypeError):
        return
    if isinstance(schema, int) and schema > SCHEMA:
        raise RunFolderError(
            f"{path}: was written by a newer version of evolve (journal schema {schema}, this version reads up to "
            f"{SCHEMA}); upgrade evolve"
        )


class Journal:
    """The only writer of a journal, a context manager. The caller holds the lock of the run folder.

    Opening the journal locks it, and cuts off an incomplete last line.

    Attributes:
        entries: The entries that the journal had when it was opened.

    Raises:
        RunFolderError: The journal is damaged, is a link, or another process writes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        is_new = not path.exists()
        self._file = _open(path)
        try:
            data = _claim(self._file, path)
            self.entries: list[Entry] = list(_entries(data, path))
            self._known = bytearray(data[: data.rfind(b"\n") + 1])
            if len(self._known) < len(data):  # an incomplete last line
                self._file.truncate(len(self._known))
                os.fsync(self._file.fileno())
        except BaseException:
            self._file.close()
            raise
        self._length = len(self.entries)
        if is_new:
            sync_folder(path.parent)

    def append(self, event: Event, at: str | None = None) -> str:
        """Write an event and sync it to the disk; after an OSError the journal is unchanged.

        Args:
            event: The event.
            at: Its time, from `utc_now`; None: the current time.

        Returns:
            The time of the event.

        Raises:
            RunError: Someone has deleted, replaced or changed the file. All events, with this one, are kept in a file
                beside it.
        """
        at = at or utc_now()
        line = _sealed({"seq": self._length + 1, "at": at, "event": event.model_dump(mode="json")})
        fault_point("journal.before_write")
        self._refuse_change(line)
        try:
            self._write(line)
            fault_point("journal.after_write")
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(len(self._known))
            raise
        fault_point("journal.after_fsync")
        self._known += line
        self._length += 1
        return at

    def clear(self) -> None:
        """Delete all entries, for a run that begins anew because none of them is a score."""
        self._file.truncate(0)
        os.fsync(self._file.fileno())
        self.entries, self._length = [], 0
        self._known.clear()

    def _write(self, line: bytes) -> None:
        written = self._file.write(line)
        if written != len(line):  # a disk that fills up takes a part of the line; the next write has the error
            self._file.write(line[written:])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def _refuse_change(self, line: bytes) -> None:
        """Raise RunError if the file is not what this writer has written; keep all events and the new line."""
        change = self._change()
        if change is None:
            return
        resume = shlex.join(["evolve", "resume", str(self.path.parent)])
        kept = rescue(self.path, bytes(self._known) + line)
        if kept is None:
            raise RunError(
                f"{self.path}: was deleted or moved during the run, with its folder; put the folder back, then "
                f"`{resume}`"
            )
        raise RunError(
            f"{self.path}: {change} during the run; all {self._length + 1} events are in {kept.name}; to go on: "
            f"`{shlex.join(['mv', str(kept), str(self.path)])}`, then `{resume}`"
        )

    def _change(self) -> str | None:
        """Return what has happened to the file; None if nothing has."""
        ours = os.fstat(self._file.fileno())
        try:
            found = self.path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return "was deleted"
        if (found.st_dev, found.st_ino) != (ours.st_dev, ours.st_ino):
            return "was replaced"
        return None if ours.st_size == len(self._known) else "was changed by someone else"

    def close(self) -> None:
        """Close the file, which releases its lock."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(path: Path) -> io.FileIO:
    """Open a journal to read and to append; create it if it is missing."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return io.FileIO(path, "ab+", opener=lambda name, _: os.open(name, flags, 0o666))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RunFolderError(f"{path}: is a link; replace it by the file that it names") from None
        raise


def _claim(file: io.FileIO, path: Path) -> bytes:
    """Lock an open journal and return its content."""
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST:
        raise RunFolderError(f"{path}: is no file of at most {_MOST >> 20} MB; restore the journal from a copy")
    if not lock_file(file):
        raise RunFolderError(f"{path}: another process writes it; wait for that run or stop it")
    file.seek(0)
    return file.readall()
