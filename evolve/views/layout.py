"""How the models of a tree are laid out in lines: shared columns, and parts beside or below each other by the width."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

__all__ = ["MARKS", "Layout", "Row"]

MARKS = 3  # the columns before a name
_GAP = "  "
_INDENT = MARKS + 2
_RIGHT = (False, False, True, True)


@dataclass(frozen=True)
class Row:
    """The texts of one model, before they are laid out.

    Attributes:
        marks: `MARKS` columns wide.
        numbers: Name, average, merge gain, kinship of the parents.
        parents: Empty for a foundation.
        tasks: One text a task.
        reason: Why it failed; empty for others.
    """

    marks: Text
    numbers: tuple[Text, Text, Text, Text]
    parents: Text
    tasks: tuple[Text, ...]
    reason: Text


class Layout:
    """Columns that all models share, and which parts of a model share a line.

    Parents and tasks stand beside the numbers where there is room for those of every model, else below them; a name
    so long that the numbers would not fit beside it has a line of its own. A line that is still too long is folded.
    """

    def __init__(self, rows: Sequence[Row], headings: Sequence[str], width: int) -> None:
        self._width = width
        self._headings = [Text(heading, style="dim") for heading in headings]
        cells = [self._headings[:4], *(row.numbers for row in rows)]
        self._columns = [max(line[i].cell_len for line in cells) for i in range(4)]
        self._parents = max((row.parents.cell_len for row in rows), default=0)
        tasks = max((_joined(row.tasks).cell_len for row in rows), default=0)
        numbers = MARKS + sum(self._columns) + 3 * len(_GAP)
        self._name_apart = numbers > width
        self._parents_beside = not self._name_apart and numbers + len(_GAP) + self._parents <= width
        self._tasks_beside = self._parents_beside and numbers + 2 * len(_GAP) + self._parents + tasks <= width

    def headings(self) -> Text:
        """The line above the first generation; what stands on lines of its own needs no heading."""
        cells = self._padded(self._headings[:4])
        if self._name_apart:
            return Text(" " * _INDENT) + _joined(cells[1:])
        return Text(" " * MARKS) + _joined([*cells, *self._headings[4:]] if self._parents_beside else cells)

    def lines(self, row: Row, console: Console) -> list[Text]:
        """The lines of one model, without trailing blanks."""
        cells = self._padded(row.numbers)
        below: list[Text] = []
        if self._name_apart:
            first = row.marks + row.numbers[0]
            below.append(Text(" " * _INDENT) + _joined(cells[1:]))
        else:
            if self._parents_beside:
                cells.append(_pad(row.parents, self._parents, right=False))
            first = row.marks + _joined([*cells, *row.tasks] if self._tasks_beside else cells)
        if not self._parents_beside:
            below += self._indented(row.parents, console)
        if not self._tasks_beside:
            below += self._flowed(row.tasks)
        lines = [first, *below, *self._indented(row.reason, console)]
        for line in lines:
            line.rstrip()
        return lines

    def _padded(self, cells: Sequence[Text]) -> list[Text]:
        return [_pad(c, width, right=r) for c, width, r in zip(cells, self._columns, _RIGHT, strict=True)]

    def _indented(self, text: Text, console: Console) -> list[Text]:
        if not text.plain:
            return []
        wrapped = text.wrap(console, max(self._width - _INDENT, 1), overflow="fold")
        return [Text(" " * _INDENT) + line for line in wrapped]

    def _flowed(self, cells: Sequence[Text]) -> list[Text]:
        """As many cells a line as fit; a cell is not broken."""
        lines: list[list[Text]] = []
        for cell in cells:
            if lines and _joined([*lines[-1], cell]).cell_len <= self._width - _INDENT:
                lines[-1].append(cell)
            else:
                lines.append([cell])
        return [Text(" " * _INDENT) + _joined(line) for line in lines]


def _pad(text: Text, width: int, *, right: bool) -> Text:
    blanks = Text(" " * (width - cell_len(text.plain)))
    return blanks + text if right else text + blanks


def _joined(cells: Iterable[Text]) -> Text:
    return Text(_GAP).join(cells)
