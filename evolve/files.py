"""The one reader of whole files, and the one parser of JSON, for content that evolve did not write itself.

A file that is read is a regular file of a sensible size: a named pipe would block for ever, and `/dev/zero` has no end.
JSON that is parsed has no numbers that overflow and no nesting that overflows the stack of the code behind it.
"""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

__all__ = [
    "MOST_MODEL_JSON",
    "MOST_RECORD",
    "MOST_TEXT",
    "UnreadableFileError",
    "open_regular",
    "parse_json",
    "read_bytes",
    "read_json",
    "read_text",
    "shown",
]

MOST_TEXT = 1 << 18
"""Most bytes of a file that people write: a configuration, a recipe."""

MOST_RECORD = 64 << 20
"""Most bytes of a JSON file that evolve writes: a score, a manifest, a cache of hashes."""

MOST_MODEL_JSON = 512 << 20
"""Most bytes of a JSON file of a model; the largest tokenizers have 50 MB."""

_MOST_DEPTH = 100
_MOST_DIGITS = 300  # a longer number is no float; tokenizers write 10**30 for "no limit"
_BLOCK = 1 << 20
_MOST_SHOWN = 120  # characters

_KINDS = (
    (stat.S_ISDIR, "folder"),
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)


class UnreadableFileError(OSError):
    """A file is not a regular file, is too long, or is not text.

    `filename` is its path, `strerror` says what is wrong, and `str` gives both; the caller adds the fix.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(None, reason, str(path))

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file, or a link to one, for reading in binary mode without a buffer.

    Raises:
        OSError: There is no such file, or the system does not let evolve read it.
        UnreadableFileError: It is a folder, a named pipe, a socket or a device. Such a file is not opened.
    """
    try:
        _refuse_irregular(path, path.stat())
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:  # a NUL in the path
        raise UnreadableFileError(path, "no file can have this name") from None
    with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor
        _refuse_irregular(path, os.fstat(descriptor))  # it may have been replaced since
        yield file


def read_bytes(path: Path, most: int) -> bytes:
    """Return the content of a regular file of at most `most` bytes.

    Raises:
        OSError: As `open_regular`.
        UnreadableFileError: As `open_regular`, or the file is longer.
    """
    blocks, size = [], 0
    with open_regular(path) as file:
        while block := file.read(_BLOCK):
            blocks.append(block)
            size += len(block)
            if size > most:
                raise UnreadableFileError(path, f"is longer than {_size(most)}, the most for such a file")
    return b"".join(blocks)


def read_text(path: Path, most: int) -> str:
    """Return the content of a regular file of at most `most` bytes of UTF-8.

    Raises:
        OSError: As `open_regular`.
        UnreadableFileError: As `read_bytes`, or the file is not UTF-8 text.
    """
    try:
        text = read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnreadableFileError(path, "is not UTF-8 text") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, most: int) -> Any:
    """Return the value of a JSON file; `read_bytes` and `parse_json` in one.

    Raises:
        OSError: As `read_bytes`.
        ValueError: As `parse_json`.
    """
    return parse_json(read_bytes(path, most))


def parse_json(data: bytes | str, *, unique: bool = False, finite: bool = False) -> Any:
    """Return the value of a JSON text that anyone may have written.

    Args:
        data: The text.
        unique: Whether to refuse an object that has a key twice; else the last one counts.
        finite: Whether to refuse NaN, Infinity and numbers that overflow to it.

    Raises:
        ValueError: The text is not JSON, is not UTF-8, is nested too deeply or has a number that is too long. The
            message is one line.
    """
    hooks: dict[str, Any] = {"parse_int": _parse_int}
    if unique:
        hooks["object_pairs_hook"] = _unique
    if finite:
        hooks |= {"parse_float": _parse_float, "parse_constant": _refuse_constant}
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        value = json.loads(text, **hooks)
        if "\\ud" in text or "\\uD" in text:  # perhaps half of a surrogate pair, which no file can hold
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    except UnicodeEncodeError:
        raise ValueError("it has half of a surrogate pair") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except MemoryError:
        raise ValueError("it does not fit into memory") from None
    _refuse_depth(value)
    return value


def shown(value: Any) -> str:
    """Return a value from a file for a message: on one line, without control characters, and not too long."""
    text = "".join(part if part.isprintable() else repr(part)[1:-1] for part in str(value)[:_MOST_SHOWN])
    return text if len(text) < _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."


def _size(most: int) -> str:
    """Return a bound as a person reads it; the bounds are powers of 2."""
    return f"{most >> 20} MB" if most >= 1 << 20 else f"{most >> 10} kB" if most >= 1 << 10 else f"{most} bytes"


def _refuse_irregular(path: Path, found: os.stat_result) -> None:
    if stat.S_ISREG(found.st_mode):
        return
    kind = next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), "special file")
    raise UnreadableFileError(path, f"is a {kind}, not a regular file")


def _parse_int(text: str) -> float:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"it has a number of {len(text)} digits")
    return -0.0 if text == "-0" else int(text)  # as other parsers of JSON read it


def _parse_float(text: str) -> float:
    value = float(text)
    if value in {float("inf"), float("-inf")}:
        raise ValueError(f"its number {text[:40]} is not finite")
    return value


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"its number {text} is not finite")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"it has the key {twice[:200]!r} twice")
    return found


def _refuse_depth(value: Any) -> None:
    level = [value]
    for _ in range(_MOST_DEPTH + 1):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise ValueError("it is nested too deeply")
