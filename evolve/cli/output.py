"""Printing of results and errors, safe for any width, any encoding and any control character.

On a terminal lines are wrapped at words. A word that is longer than a line (a path, a command) is not broken, so that
it can be copied. Without a terminal no line is wrapped.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from evolve.characters import escaped
from evolve.views.text import View, plain

__all__ = ["print_json", "print_text", "say", "say_error", "show"]

_NO_TERMINAL = 500
"""Width of a view where there is no terminal."""


def say(text: str) -> None:
    """Print text to standard output."""
    print_text(Console(), Text(plain(text)))


def say_error(text: str) -> None:
    """Print text to standard error."""
    print_text(Console(stderr=True), Text(plain(text)))


def print_text(console: Console, text: Text) -> None:
    """Print text, wrapped if the output is a terminal; an indented line is the row of a table and is not wrapped."""
    is_terminal = console.file.isatty()  # FORCE_COLOR makes any file a terminal for rich
    for line in text.split(allow_blank=True):
        is_row = line.plain.startswith(" ")
        console.print(View(line), soft_wrap=is_row or not is_terminal, crop=False)


def show(view: RenderableType) -> None:
    """Print a view, laid out for the width of the terminal."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=_NO_TERMINAL)
    console.print(view, crop=False)


def print_json(data: Any) -> None:
    """Print JSON, with escapes for the characters that a terminal obeys; NaN is a ValueError."""
    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    text = json.dumps(data, indent=2, ensure_ascii=not is_unicode, allow_nan=False)
    Console().out(escaped(text), highlight=False)
