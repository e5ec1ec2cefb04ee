"""The log of a run: what the driver, its worker and the engines write into `run.log`."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from evolve.characters import visible

__all__ = ["LogFormatter", "VisibleText", "logging_to", "open_log"]


class LogFormatter(logging.Formatter):
    """The format of a line; a log is read in terminals, so it has no control characters."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, with the lines of its traceback."""
        return visible(super().format(record))


class VisibleText(io.TextIOWrapper):
    """A text file that replaces control characters by spaces, for the output of the engines."""

    def write(self, text: str) -> int:
        """Write a text; return the number of its characters."""
        super().write(visible(text))
        return len(text)


class _Handler(logging.StreamHandler[TextIO]):
    """A handler that ignores write errors; the run itself reports a full disk."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Ignore the error."""


def open_log(path: Path) -> int:
    """Return a descriptor that appends to a log; raise OSError if the log is a link or a pipe that no one reads."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.open(path, flags, 0o644)


@contextmanager
def logging_to(path: Path, log: logging.Logger) -> Iterator[None]:
    """Append the records of a logger to a file, and only there."""
    file = os.fdopen(open_log(path), "a", encoding="utf-8")
    handler = _Handler(file)
    handler.setFormatter(LogFormatter())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        with contextlib.suppress(OSError):  # its end cannot be written
            file.close()
