"""What the terminal views share: marks, styles, grids, and a wrapper that keeps them readable where UTF-8 is not.

Text from outside (names, reasons, paths) never goes through rich's markup.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from evolve.lineage import FamilyTree, Model

__all__ = [
    "BEST",
    "EXPLORATION",
    "FAILED",
    "IN_TOP",
    "TIMES",
    "View",
    "command",
    "facts_grid",
    "gain_style",
    "one_line",
    "plain",
    "standing_mark",
    "state_of",
    "stop_text",
]

BEST, IN_TOP, EXPLORATION, FAILED = "★", "●", "◇", "✗"
TIMES = "\N{MULTIPLICATION SIGN}"

_ASCII = str.maketrans({BEST: "*", IN_TOP: "o", EXPLORATION: "^", FAILED: "!", "±": "~", TIMES: "x"})
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[^\S\n ]|[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class View:
    """A renderable whose signs are replaced by ASCII ones where the output cannot carry them."""

    def __init__(self, *parts: RenderableType) -> None:
        self._parts = parts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in self._parts:
            for segment in console.render(part, options):
                yield _ascii(segment) if options.ascii_only and not segment.control else segment


def _ascii(segment: Segment) -> Segment:
    text = segment.text.translate(_ASCII).encode("ascii", "replace").decode("ascii")
    return Segment(text, segment.style)


def plain(text: str) -> str:
    """Text from outside without terminal codes and control characters; its lines are kept."""
    return _ESCAPE.sub(lambda found: "" if found[0].startswith("\x1b") else " ", text).strip()


def one_line(text: str) -> str:
    """The first line of a text from outside; its other lines are for the view of the one model."""
    return plain(text).partition("\n")[0].rstrip()


def command(*words: str) -> str:
    """A command to type, quoted for the shell."""
    return shlex.join(words)


def facts_grid(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """Facts in two columns: what it is, and the value, folded where it is too long, never cut."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(Text(label), value if isinstance(value, Text) else Text(value))
    return grid


def gain_style(value: float | None) -> str:
    """Green for a gain, red for a loss; what rounds to 0.00 points is neither."""
    if value is None or abs(value) < 0.00005:
        return ""
    return "green" if value > 0 else "red"


def standing_mark(model: Model, top: Sequence[str]) -> str:
    """One sign for where a model stands: the best, in S, failed, or a blank."""
    if model.status == "failed":
        return FAILED
    if model.name in top:
        return BEST if model.name == top[0] else IN_TOP
    return " "


def state_of(model: Model) -> str:
    """A model's state in words, where it is not the number of its average."""
    words = {"planned": "to merge", "merged": "to score", "evaluated": "scored"}
    if model.status != "failed":
        return words[model.status]
    return "failed to merge" if model.identity is None else "failed to score"


def stop_text(tree: FamilyTree) -> str | None:
    """Why and when the run stopped; None while it has not."""
    if tree.stop is None:
        return None
    return f"{tree.stop.reason} after generation {tree.stop.generation}: {plain(tree.stop.detail)}"
