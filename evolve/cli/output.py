"""Results on standard output, which no terminal's width, encoding or control characters can spoil."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from evolve.views.text import View, plain

__all__ = ["print_json", "say", "show"]

_NO_TERMINAL = 500
"""Columns where nobody looks: wide enough that no path and no command is broken in two."""


def say(line: str) -> None:
    """Print a line as it is; the reader's terminal may wrap it."""
    Console().print(View(Text(plain(line))), soft_wrap=True)


def show(view: RenderableType) -> None:
    """Print a view, laid out for the terminal's width, or unbroken where there is no terminal."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=_NO_TERMINAL)
    console.print(view)


def print_json(data: Any) -> None:
    """Print JSON; NaN is a ValueError."""
    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    Console().out(json.dumps(data, indent=2, ensure_ascii=not is_unicode, allow_nan=False), highlight=False)
