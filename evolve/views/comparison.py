"""Two or more runs side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import RenderableType
from rich.text import Text

from evolve.analysis import State, best_by_generation, by_state, differing_settings, effort, lead, top_kinship
from evolve.lineage import FamilyTree
from evolve.views.numbers import UNKNOWN, duration, kinship_number, model_average, model_points, signed_measured
from evolve.views.text import BEST, Table, View, difference_style, wrap_words

__all__ = ["compare_view"]

_PARTS = ("generations", "best model", "best of generation 0", "stopped")  # a blank line comes before these


def compare_view(trees: Mapping[str, FamilyTree]) -> RenderableType:
    """Return the runs side by side, in as many tables as the width needs, with a warning if they cannot be compared.

    Args:
        trees: The runs, by the names to show.
    """
    return View(_Comparison(trees))


class _Comparison:
    def __init__(self, trees: Mapping[str, FamilyTree]) -> None:
        self._differing = differing_settings(trees)
        last = max((tree.generation for tree in trees.values()), default=0)
        self._columns = {name: _facts(tree, last) for name, tree in trees.items()}
        best = {name: tree.ranking[0].average or 0.0 for name, tree in trees.items() if tree.ranking}
        estimated = any(tree.ranking[0].is_estimated for tree in trees.values() if tree.ranking)
        comparable = len(best) > 1 and not self._differing and not estimated
        self._winners = {name for name, value in best.items() if comparable and value == max(best.values())}

    def lines(self, width: int) -> Iterable[Text]:
        """Return the lines, wrapped for a width."""
        for number, names in enumerate(self._fitting(width)):
            if number:
                yield Text()
            yield from self._table(names).lines(width)
        if self._winners:
            yield from wrap_words(Text(f"{BEST} the best average of all runs", style="dim"), width)
        if self._differing:
            text = f"The runs differ in {', '.join(self._differing)}: their averages and gains cannot be compared."
            yield from wrap_words(Text(text, style="yellow"), width)

    def _fitting(self, width: int) -> list[list[str]]:
        """Return the runs in groups, each as large as the width allows, and of at least one run."""
        groups: list[list[str]] = []
        for name in self._columns:
            if groups and self._table([*groups[-1], name]).width <= width:
                groups[-1].append(name)
            else:
                groups.append([name])
        return groups

    def _table(self, names: list[str]) -> Table:
        headings = [Text(f"{BEST} {name}" if name in self._winners else name) for name in names]
        rows: list[list[Text]] = []
        for label in self._columns[names[0]]:
            if label in _PARTS:
                rows.append([])
            rows.append([Text(label, style="dim"), *(self._columns[name][label] for name in names)])
        return Table([Text(), *headings], rows)


def _facts(tree: FamilyTree, last: int) -> dict[str, Text]:
    """Return the facts of a run by label, with one for each generation that any of the runs has."""
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
        "evaluations": f"{done.evaluations}" + (f" ({done.reused} cached)" if done.reused else ""),
        "time merging": duration(done.merge_seconds),
        "time scoring": duration(done.evaluate_seconds),
        "best model": best.name if best else UNKNOWN,
        "best average": model_average(best) if best else UNKNOWN,
    }
    column = {label: Text(value) for label, value in facts.items()}
    column["over best foundation"] = _lead(tree)
    column["kinship of the best"] = Text(kinship_number(top_kinship(tree)))
    for generation in range(last + 1):
        column[f"best of generation {generation}"] = _best(tree, generation)
    stop = tree.stop
    column["stopped"] = Text(f"{stop.reason} after {stop.generation}" if stop else "not yet")
    return column


def _models(tree: FamilyTree) -> str:
    found = by_state(tree.models)
    others: tuple[State, ...] = ("estimated", "dropped", "failed")
    return f"{len(found['scored'])} scored" + "".join(f", {len(found[s])} {s}" for s in others if found[s])


def _lead(tree: FamilyTree) -> Text:
    found = lead(tree)
    if found is None:
        return Text(UNKNOWN)
    if found.best.name == found.foundation.name:
        return Text("none")
    value = found.difference.value
    return Text(signed_measured(value, found.difference.stderr), style=difference_style(value))


def _best(tree: FamilyTree, generation: int) -> Text:
    model = best_by_generation(tree).get(generation)
    return Text(UNKNOWN if model is None else f"{model_points(model)} {model.name}")
