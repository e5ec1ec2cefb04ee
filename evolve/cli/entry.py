"""The process of a command: its streams, signals and exit code.

The signals are handled before anything heavy is imported, so that a command can be stopped from its beginning.
"""

from __future__ import annotations

import os
import re
import sys

from evolve.cli.streams import OutputLost, guarded_streams
from evolve.errors import EvolveError
from evolve.run.interrupts import exiting_signals

__all__ = ["main"]

_SIZES = ("COLUMNS", "LINES", "TERMINAL_WIDTH")


def main() -> None:
    """Run the command line; an error that evolve raises on purpose becomes one message and an exit code."""
    with guarded_streams():
        code = _call()
    sys.exit(code)


def _call() -> int:
    try:
        with exiting_signals():
            _ignore_wrong_sizes()
            from evolve.cli.app import call

            return call()
    except EvolveError as error:
        if not (isinstance(error, OutputLost) and error.is_pipe):
            _explain(error)
        return error.exit_code


def _explain(error: EvolveError) -> None:
    from evolve.cli.output import say_error
    from evolve.views.text import plain

    say_error(f"evolve: {error}")
    for note in getattr(error, "__notes__", ()):
        print(plain(note), file=sys.stderr)


def _ignore_wrong_sizes() -> None:
    """Remove sizes of the terminal that are no positive numbers; the libraries would print nothing, or fail."""
    for name in _SIZES:
        if not re.fullmatch("[1-9][0-9]{0,4}", os.environ.get(name, "1")):
            del os.environ[name]
