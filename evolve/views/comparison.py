"""Two or more runs side by side."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from evolve.lineage import FamilyTree
from evolve.views.facts import best_by_generation, differing_settings, effort, lead, top_kinship
from evolve.views.numbers import UNKNOWN, duration, kinship_number, measured, points, signed_measured
from evolve.views.text import BEST, View, gain_style

__all__ = ["compare_view"]

_WIDEST = 24  # a column that needs more is folded
_GAP = 2
_PARTS = ("generations", "best model", "best of generation 0", "stopped")  # a blank line comes before these


def compare_view(trees: Mapping[str, FamilyTree]) -> RenderableType:
    """The runs side by side, in as many tables as the width asks for, and a warning where they do not compare.

    Args:
        trees: The runs, by what they are to be called.
    """
    return View(_Comparison(trees))


class _Comparison:
    def __init__(self, trees: Mapping[str, FamilyTree]) -> None:
        self._differing = differing_settings(trees)
        last = max((tree.generation for tree in trees.values()), default=0)
        self._columns = {name: _facts(tree, last) for name, tree in trees.items()}
        best = {name: tree.ranking[0].average or 0.0 for name, tree in trees.items() if tree.ranking}
        comparable = len(best) > 1 and not self._differing
        self._winners = {name for name, value in best.items() if comparable and value == max(best.values())}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for number, names in enumerate(self._fitting(options.max_width)):
            if number:
                yield Text()
            yield self._table(names)
        if self._winners:
            yield Text(f"{BEST} the best average of all runs", style="dim")
        if self._differing:
            text = f"The runs differ in {', '.join(self._differing)}: their averages and gains do not compare."
            yield Text(text, style="yellow")

    def _fitting(self, width: int) -> list[list[str]]:
        """The runs in groups, each as wide as the terminal allows, and of one run at least."""
        left = max((cell_len(label) for facts in self._columns.values() for label in facts), default=0)
        groups: list[list[str]] = []
        room = 0
        for name, facts in self._columns.items():
            wide = _GAP + min(_WIDEST, max(cell_len(name) + 2, *(text.cell_len for text in facts.values())))
            if not groups or wide > room:
                groups.append([])
                room = width - left
            groups[-1].append(name)
            room -= wide
        return groups

    def _table(self, names: list[str]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, _GAP - 1, 0, 0), show_edge=False)
        table.add_column("", style="dim", no_wrap=True)
        for name in names:
            table.add_column(Text(f"{BEST} {name}" if name in self._winners else name), overflow="fold")
        for label in self._columns[names[0]]:
            if label in _PARTS:
                table.add_row()
            table.add_row(label, *(self._columns[name][label] for name in names))
        return table


def _facts(tree: FamilyTree, last: int) -> dict[str, Text]:
    """One column: the facts of a run by label, with a line for each generation that any of the runs has."""
    strategy = tree.config.strategy
    done = effort(tree)
    best = tree.ranking[0] if tree.ranking else None
    facts = {
        "strategy": strategy.name,
        "kinship by": strategy.metric,
        "k": str(strategy.top_k),
        "generations": str(tree.generation),
        "models": _models(tree),
        "merges": str(done.merges),
        "evaluations": f"{done.evaluations}" + (f" ({done.reused} reused)" if done.reused else ""),
        "time merging": duration(done.merge_seconds),
        "time scoring": duration(done.evaluate_seconds),
        "best model": best.name if best else UNKNOWN,
        "best average": measured(best.average, best.average_stderr) if best else UNKNOWN,
    }
    column = {label: Text(value) for label, value in facts.items()}
    column["over best foundation"] = _lead(tree)
    column["kinship of S"] = Text(kinship_number(top_kinship(tree), strategy.metric))
    for generation in range(last + 1):
        column[f"best of generation {generation}"] = _best(tree, generation)
    stop = tree.stop
    column["stopped"] = Text(f"{stop.reason} after {stop.generation}" if stop else "not yet")
    return column


def _models(tree: FamilyTree) -> str:
    failed = sum(model.status == "failed" for model in tree.models)
    text = f"{len(tree.ranking)} scored"
    return text + (f", {failed} failed" if failed else "")


def _lead(tree: FamilyTree) -> Text:
    found = lead(tree)
    if found is None:
        return Text(UNKNOWN)
    if found.best.name == found.foundation.name:
        return Text("none")
    value = found.difference.value
    return Text(signed_measured(value, found.difference.stderr), style=gain_style(value))


def _best(tree: FamilyTree, generation: int) -> Text:
    model = best_by_generation(tree).get(generation)
    return Text(UNKNOWN if model is None else f"{points(model.average)} {model.name}")
