"""Results on standard output, which no terminal's width, encoding or control characters can spoil."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from evolve.views.text import View, plain

__all__ = ["print_json", "say"]


def say(line: str) -> None:
    """Print a line as it is; the reader's terminal may wrap it."""
    Console().print(View(Text(plain(line))), soft_wrap=True)


def print_json(data: Any) -> None:
    """Print JSON; NaN is a ValueError."""
    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    Console().out(json.dumps(data, indent=2, ensure_ascii=not is_unicode, allow_nan=False), highlight=False)
