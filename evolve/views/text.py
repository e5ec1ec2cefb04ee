"""Common parts of the terminal views: marks, styles, wrapping at words, facts and tables.

A word that is longer than the line is not broken, so that a path or a name can always be copied. For this, print a view
with `console.print(view, crop=False)`. Text from outside (names, reasons, paths) is never parsed as rich's markup.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text

from evolve.characters import visible
from evolve.lineage import FamilyTree, Model

__all__ = [
    "BEST",
    "DROPPED",
    "EXPLORATION",
    "FAILED",
    "IN_TOP",
    "TIMES",
    "Facts",
    "Lines",
    "Part",
    "Table",
    "View",
    "command",
    "difference_style",
    "indented",
    "one_line",
    "padded",
    "plain",
    "standing_mark",
    "stop_text",
    "wrap_words",
]

BEST, IN_TOP, EXPLORATION, DROPPED, FAILED = "★", "●", "◇", "▽", "✗"
TIMES = "\N{MULTIPLICATION SIGN}"

_ASCII = str.maketrans(
    {
        BEST: "*",
        IN_TOP: "o",
        EXPLORATION: "^",
        DROPPED: "v",
        FAILED: "!",
        "±": "~",
        TIMES: "x",
        "─": "-",
        "│": "|",
        "├": "+",
        "└": "`",
    }
)
_WORD = re.compile(r"\S+")
_GAP = 2
_ROOM = 16  # the least room for a value beside its label


@runtime_checkable
class Lines(Protocol):
    """A part of a view that lays itself out in lines of text."""

    def lines(self, width: int) -> Iterable[Text]:
        """Return the lines, wrapped for a width."""


Part = Text | Lines | RenderableType


class View:
    """A renderable that wraps at words, without hidden characters; where the output is not UTF-8 it has other signs."""

    def __init__(self, *parts: Part) -> None:
        self._parts = parts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = sys.maxsize if options.no_wrap else options.max_width
        whole = options.update(no_wrap=True, overflow="ignore")
        for part in self._parts:
            if isinstance(part, Text | Lines):
                lines = wrap_words(part, width) if isinstance(part, Text) else part.lines(width)
                segments = [segment for line in lines for segment in console.render(line, whole)]
            else:
                segments = list(console.render(part, options))
            for segment in segments:
                yield segment if segment.control else _printed(segment, ascii_only=options.ascii_only)


def _printed(segment: Segment, *, ascii_only: bool) -> Segment:
    """Return a segment as it may reach a terminal; this is the one way out for all text of a view."""
    text = visible(segment.text)
    if ascii_only:
        text = text.translate(_ASCII).encode("ascii", "replace").decode("ascii")
    return Segment(text, segment.style)


def wrap_words(text: Text, width: int) -> list[Text]:
    """Return the lines of a text, broken between words only; a word longer than the width is not broken.

    A text with `no_wrap`, such as a command to copy, keeps its own lines.
    """
    lines: list[Text] = []
    for line in text.split(allow_blank=True):
        if text.no_wrap:
            lines.append(line)
            continue
        breaks, start = [], 0
        for word in _WORD.finditer(line.plain):
            is_first = not line.plain[start : word.start()].strip()
            if not is_first and cell_len(line.plain[start : word.end()]) > width:
                start = word.start()
                breaks.append(start)
        lines += line.divide(breaks)
    for line in lines:
        line.rstrip()
    return lines


def indented(text: Text, width: int, indent: int) -> list[Text]:
    """Return the lines of a text, each with an indent that counts towards the width."""
    lines = [Text(" " * indent) + line for line in wrap_words(text, width - indent)]
    for line in lines:
        line.rstrip()
    return lines


def plain(text: str) -> str:
    """Return text from outside without terminal codes and other hidden characters; its lines are kept."""
    return visible(text).strip()


def one_line(text: str) -> str:
    """Return the first line of a text from outside; the view of one model shows all of it."""
    return plain(text).partition("\n")[0].rstrip()


def command(*words: str) -> str:
    """Return a command to type, quoted for the shell."""
    return shlex.join(words)


class Facts:
    """Facts in two columns, label and value; a value that does not fit beside its label is below it."""

    def __init__(self, rows: Iterable[tuple[str, str | Text]]) -> None:
        self._rows = [(label, value if isinstance(value, Text) else Text(value)) for label, value in rows]

    def lines(self, width: int) -> Iterable[Text]:
        """Return the lines, wrapped for a width."""
        left = max((cell_len(label) for label, _ in self._rows), default=0) + _GAP
        for label, value in self._rows:
            words = value.plain.splitlines() if value.no_wrap else value.plain.split()
            longest = max(map(cell_len, words), default=0)
            if longest <= width - left >= _ROOM:
                for number, line in enumerate(wrap_words(value, width - left)):
                    yield Text.assemble(padded(Text("" if number else label, "dim"), left, right=False), line)
            else:
                yield from wrap_words(Text(label, "dim"), width)
                yield from indented(value, width, _GAP)


class Table:
    """Cells in aligned columns; where these do not fit the width, one fact below another.

    Args:
        headings: One a column; the first column names the rows.
        rows: One cell a column; an empty row is a blank line.
        footer: A last row below a rule.
        right: The columns that are aligned to the right.
    """

    def __init__(
        self,
        headings: Sequence[Text],
        rows: Sequence[Sequence[Text]],
        *,
        footer: Sequence[Text] = (),
        right: Sequence[int] = (),
    ) -> None:
        self._headings, self._rows, self._footer, self._right = headings, rows, footer, right
        body = [row for row in (headings, *rows, footer) if row]
        self._columns = [max(row[n].cell_len for row in body) for n in range(len(headings))]

    @property
    def width(self) -> int:
        """The width of all columns beside each other."""
        return sum(self._columns) + _GAP * (len(self._columns) - 1)

    def lines(self, width: int) -> Iterable[Text]:
        """Return the lines, wrapped for a width."""
        if self.width > width:
            yield from self._stacked(width)
            return
        rule = Text("─" * self.width, "dim")
        yield self._aligned(self._headings)
        yield rule
        for row in self._rows:
            yield self._aligned(row)
        if self._footer:
            yield rule
            yield self._aligned(self._footer)

    def _aligned(self, row: Sequence[Text]) -> Text:
        cells = [padded(cell, self._columns[n], right=n in self._right) for n, cell in enumerate(row)]
        line = Text(" " * _GAP).join(cells)
        line.rstrip()
        return line

    def _stacked(self, width: int) -> Iterable[Text]:
        for row in (*self._rows, self._footer):
            if not row:
                continue
            yield from wrap_words(row[0], width)
            for heading, cell in zip(self._headings[1:], row[1:], strict=True):
                if cell.plain:
                    yield from indented(Text(" ").join([heading, cell]), width, _GAP)


def padded(text: Text, width: int, *, right: bool) -> Text:
    """Return a text with blanks up to a width, before it if it is aligned to the right."""
    blanks = Text(" " * (width - text.cell_len))
    return Text.assemble(blanks, text) if right else Text.assemble(text, blanks)


def difference_style(value: float | None) -> str:
    """Return green for an improvement and red for a loss; no colour for what rounds to 0.00 points."""
    if value is None or abs(value) < 0.00005:
        return ""
    return "green" if value > 0 else "red"


def standing_mark(model: Model, top: Sequence[str]) -> str:
    """Return one sign for a model: the best, among the best k, dropped, failed, or a blank."""
    if model.status == "dropped":
        return DROPPED
    if model.status == "failed":
        return FAILED
    if model.name in top:
        return BEST if model.name == top[0] else IN_TOP
    return " "


def stop_text(tree: FamilyTree) -> str | None:
    """Return why and when the run stopped; None if it has not."""
    if tree.stop is None:
        return None
    return f"{tree.stop.reason} after generation {tree.stop.generation}: {plain(tree.stop.detail)}"
