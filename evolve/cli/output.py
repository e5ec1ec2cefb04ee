"""Printing of results and errors, safe for any width, any encoding and any control character.

On a terminal lines are wrapped at words. A word that is longer than a line (a path, a command) stays whole, so that it
can be copied. Without a terminal no line is wrapped.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.containers import Lines
from rich.measure import Measurement
from rich.text import Text

from evolve.views.text import View, plain

__all__ = ["print_json", "print_text", "say", "say_error", "show"]

_NO_TERMINAL = 500
"""Width of a view where there is no terminal."""

_WIDEST = 10_000
"""No word of a view is longer."""


def say(text: str) -> None:
    """Print text to standard output."""
    print_text(Console(), Text(plain(text)))


def say_error(text: str) -> None:
    """Print text to standard error."""
    print_text(Console(stderr=True), Text(plain(text)))


def print_text(console: Console, text: Text) -> None:
    """Print text, wrapped where the output is a terminal; an indented line is the row of a table and stays as it is."""
    is_terminal = console.file.isatty()  # FORCE_COLOR makes any file a terminal for rich
    for line in text.split(allow_blank=True):
        wrap = is_terminal and not line.plain.startswith(" ")
        for part in _wrapped(line, console.width) if wrap else [line]:
            console.print(View(part), soft_wrap=True)


def show(view: RenderableType) -> None:
    """Print a view, laid out for the width of the terminal, or of its longest word where that is wider."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=_NO_TERMINAL)
    needed = Measurement.get(console, console.options.update(max_width=_WIDEST), view).minimum
    console.width = max(console.width, needed)
    console.print(view)


def _wrapped(line: Text, width: int) -> Lines:
    """Cut a line between words into parts that fit the width where their words do."""
    cuts, used = [], 0
    for word in re.finditer(r"\S+\s*", line.plain):
        if used and used + cell_len(word[0].rstrip()) > width:
            cuts.append(word.start())
            used = 0
        used += cell_len(word[0])
    parts = line.divide(cuts)
    for part in parts:
        part.rstrip()
    return parts


def print_json(data: Any) -> None:
    """Print JSON; NaN is a ValueError."""
    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    Console().out(json.dumps(data, indent=2, ensure_ascii=not is_unicode, allow_nan=False), highlight=False)
