"""The log of a run: the driver's records in `run.log`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["logging_to"]

_LOG = logging.getLogger("evolve.run")


class _Log(logging.FileHandler):
    """A log file that ignores write errors; the run itself reports a full disk."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Ignore the error."""

    def close(self) -> None:
        """Close the file, even if its end cannot be written."""
        with contextlib.suppress(OSError):
            super().close()


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Write the records of the logger `evolve.run` to a file within the context."""
    handler = _Log(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)
    _LOG.propagate = False
    try:
        yield
    finally:
        _LOG.removeHandler(handler)
        handler.close()
