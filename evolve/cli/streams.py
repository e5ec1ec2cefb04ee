"""Standard input, output and error: closed ones are opened, and a failed write is handled in one place.

Whoever prints needs no care for a closed pipe or a full disk. A command that prints results ends with `OutputLost`; a
run catches it and goes on; messages to standard error are dropped.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from evolve.errors import EvolveError

__all__ = ["OutputLost", "Stream", "guarded_streams"]


class OutputLost(EvolveError):
    """Standard output cannot be written.

    Attributes:
        is_pipe: Whether the reader of a pipe has ended, which needs no message; `exit_code` is then that of SIGPIPE.
    """

    def __init__(self, error: Exception) -> None:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        super().__init__(f"the output cannot be written ({reason})")
        self.is_pipe = isinstance(error, BrokenPipeError)
        if self.is_pipe:
            self.exit_code = 141


class Stream:
    """A text stream whose first failed write is kept in `lost`; all later text is dropped.

    Args:
        stream: The stream to write to.
        strict: Raise `OutputLost` when text is lost, and at each later write.
    """

    def __init__(self, stream: TextIO, *, strict: bool) -> None:
        self._stream = stream
        self._strict = strict
        self.lost: OutputLost | None = None

    @classmethod
    def lenient(cls, stream: TextIO) -> TextIO:
        """Return a stream that never raises."""
        return cast("TextIO", cls(stream, strict=False))

    def write(self, text: str) -> int:
        """Write text, and return its length."""
        if self.lost is None:
            try:
                return self._stream.write(text)
            except (OSError, ValueError, OutputLost) as error:
                self._lose(error)
        self._refuse()
        return len(text)

    def flush(self) -> None:
        """Write what is buffered; after a loss there is nothing to write, so that `multiprocessing` may flush."""
        if self.lost is None:
            try:
                self._stream.flush()
            except (OSError, ValueError, OutputLost) as error:
                self._lose(error)
                self._refuse()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _refuse(self) -> None:
        if self._strict and self.lost is not None:
            raise self.lost

    def _lose(self, error: Exception) -> None:
        """Send what is still buffered to the null device, so that Python does not try to write it when it ends."""
        self.lost = error if isinstance(error, OutputLost) else OutputLost(error)
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Open the closed standard streams, and replace output and error by a strict and a lenient `Stream`."""
    _open_closed()
    out, err = sys.stdout, sys.stderr
    for stream in (out, err):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path may hold what the encoding lacks
    sys.stdout, sys.stderr = cast("TextIO", Stream(out, strict=True)), Stream.lenient(err)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, err


def _open_closed() -> None:
    """Open closed standard descriptors, so that no file of evolve gets their numbers and what is printed.

    Standard output is opened for reading, so that a write to it fails and the loss is noticed.
    """
    for number, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # gets the lowest free number, which is this one
            os.set_inheritable(number, True)  # noqa: FBT003 - positional only
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
