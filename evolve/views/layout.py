"""The layout of the tree view: columns shared by all models, with parts beside or below each other by the width."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.text import Text

from evolve.views.text import indented, padded

__all__ = ["MARKS", "Layout", "Row"]

MARKS = 3  # the columns before a name
_GAP = "  "
_INDENT = MARKS + 2
_RIGHT = (False, False, True, True, True)


@dataclass(frozen=True)
class Row:
    """The printed parts of one model.

    Attributes:
        marks: `MARKS` columns wide.
        numbers: Name, average, merge gain, difference to the better parent, kinship of the parents.
        parents: Empty for a foundation.
        tasks: One part for each task.
        reason: Why it failed; empty for others.
    """

    marks: Text
    numbers: tuple[Text, Text, Text, Text, Text]
    parents: Text
    tasks: tuple[Text, ...]
    reason: Text


class Layout:
    """Columns that all models share.

    Parents and tasks stand beside the numbers if there is room for those of every model, else below. If the numbers do
    not fit beside the names, each name has a separate line. If they do not fit there either, each has its heading
    before it, and they are wrapped.
    """

    def __init__(self, rows: Sequence[Row], headings: Sequence[str], width: int) -> None:
        self._width = width
        self._headings = headings
        cells = [[Text(part) for part in _last_lines(headings[:-1])], *(row.numbers for row in rows)]
        self._columns = [max(line[n].cell_len for line in cells) for n in range(len(_RIGHT))]
        self._parents = max((row.parents.cell_len for row in rows), default=0)
        tasks = max((_joined(row.tasks).cell_len for row in rows), default=0)
        numbers = MARKS + sum(self._columns) + (len(_RIGHT) - 1) * len(_GAP)
        self._name_apart = numbers > width
        self._flowing = self._name_apart and _INDENT + numbers - MARKS - self._columns[0] - len(_GAP) > width
        self._parents_beside = not self._name_apart and numbers + len(_GAP) + self._parents <= width
        self._tasks_beside = self._parents_beside and numbers + 2 * len(_GAP) + self._parents + tasks <= width

    def headings(self) -> list[Text]:
        """Return the lines above the first generation; only columns have a heading."""
        if self._flowing:
            return []
        upper = [heading.partition("\n")[0] if "\n" in heading else "" for heading in self._headings]
        lines = [self._heading(parts) for parts in (upper, _last_lines(self._headings)) if any(parts)]
        for line in lines:
            line.rstrip()
        return lines

    def _heading(self, parts: Sequence[str]) -> Text:
        texts = [Text(part, style="dim") for part in parts]
        cells = self._padded(texts[:-1])
        if self._name_apart:
            return Text(" " * _INDENT) + _joined(cells[1:])
        return Text(" " * MARKS) + _joined([*cells, texts[-1]] if self._parents_beside else cells)

    def lines(self, row: Row) -> list[Text]:
        """Return the lines of one model, without trailing blanks."""
        cells = self._padded(row.numbers)
        below: list[Text] = []
        if self._name_apart:
            first = Text.assemble(row.marks, row.numbers[0])
            below += self._flowed(self._labelled(row)) if self._flowing else [Text(" " * _INDENT) + _joined(cells[1:])]
        else:
            if self._parents_beside:
                cells.append(padded(row.parents, self._parents, right=False))
            first = Text.assemble(row.marks, _joined([*cells, *row.tasks] if self._tasks_beside else cells))
        if not self._parents_beside:
            below += self._below(row.parents)
        if not self._tasks_beside:
            below += self._flowed(row.tasks)
        lines = [first, *below, *self._below(row.reason)]
        for line in lines:
            line.rstrip()
        return lines

    def _padded(self, cells: Sequence[Text]) -> list[Text]:
        return [padded(c, width, right=r) for c, width, r in zip(cells, self._columns, _RIGHT, strict=True)]

    def _labelled(self, row: Row) -> list[Text]:
        """Return the numbers of a model, each after its heading."""
        labels = [heading.replace("\n", " ") for heading in self._headings[1:-1]]
        pairs = zip(labels, row.numbers[1:], strict=True)
        return [Text.assemble((label, "dim"), " ", number) for label, number in pairs if number.plain]

    def _below(self, text: Text) -> list[Text]:
        return indented(text, self._width, _INDENT) if text.plain else []

    def _flowed(self, cells: Sequence[Text]) -> list[Text]:
        """Return lines with as many cells as fit; only a cell that is too long for a line is wrapped."""
        lines: list[list[Text]] = []
        for cell in cells:
            if lines and _joined([*lines[-1], cell]).cell_len <= self._width - _INDENT:
                lines[-1].append(cell)
            else:
                lines.append([cell])
        return [wrapped for line in lines for wrapped in self._below(_joined(line))]


def _last_lines(headings: Sequence[str]) -> list[str]:
    return [heading.rpartition("\n")[2] for heading in headings]


def _joined(cells: Iterable[Text]) -> Text:
    return Text(_GAP).join(cells)
