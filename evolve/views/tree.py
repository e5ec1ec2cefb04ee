"""The family tree in the terminal: generation by generation, each model with its scores, gain and parents."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text
from rich.tree import Tree

from evolve.lineage import FamilyTree, Model
from evolve.views.facts import generations, top_kinship
from evolve.views.layout import Layout, Row
from evolve.views.numbers import kinship_number, measured, points, signed
from evolve.views.text import (
    BEST,
    EXPLORATION,
    FAILED,
    IN_TOP,
    TIMES,
    View,
    gain_style,
    one_line,
    standing_mark,
    stop_text,
)

__all__ = ["tree_view"]

_GUIDE = 4  # the columns that rich's tree draws before a node


def tree_view(tree: FamilyTree) -> RenderableType:
    """The whole family: its generations, and in each the models in the order planned, with their parents.

    Names are never cut; what is longer than a line goes on in the next.
    """
    return View(_Family(tree))


class _Family:
    def __init__(self, tree: FamilyTree) -> None:
        self._tree = tree
        self._metric = tree.config.strategy.metric
        self._top = tree.top(tree.config.strategy.top_k)
        self._recipes = {model.recipe_name for model in tree.models if model.recipe_name is not None}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        family = generations(self._tree)
        rows = {model.name: self._row(model) for models in family.values() for model in models}
        headings = ("model", "average", "gain", self._metric, "parents")
        layout = Layout(list(rows.values()), headings, options.max_width - _GUIDE)
        yield self._title()
        yield self._legend()
        yield Text()
        yield Text(" " * _GUIDE) + layout.headings()
        for generation, models in family.items():
            branch = Tree(self._generation(generation), guide_style="dim", highlight=False)
            for model in models:
                branch.add(Group(*layout.lines(rows[model.name], console)))
            yield branch
        yield Text()
        yield from self._end()

    def _title(self) -> Text:
        config = self._tree.config
        rest = f": {config.strategy.name} strategy, k = {config.strategy.top_k}, kinship by {self._metric}"
        return Text(overflow="fold").append(config.name, "bold").append(rest)

    def _legend(self) -> Text:
        """The signs in use, and what the numbers are."""
        models = self._tree.models
        signs = [f"{BEST} best", f"{IN_TOP} in S, the {self._tree.config.strategy.top_k} best"]
        if any(model.kind == "exploration" for model in models):
            signs.append(f"{EXPLORATION} exploration")
        if any(model.status == "failed" for model in models):
            signs.append(f"{FAILED} failed")
        return Text("   ".join([*signs, "scores in points"]), style="dim")

    def _generation(self, generation: int) -> Text:
        heading = Text(overflow="fold").append(f"Generation {generation}", "bold")
        if generation == 0:
            return heading.append(": foundation models")
        if generation == 1:
            return heading.append(": every pair of foundations")
        return heading.append(f" from S = {', '.join(self._tree.tops[generation])}")

    def _row(self, model: Model) -> Row:
        gain = self._tree.gain(model.name)
        kinship = self._tree.kinship(*model.parents) if model.parents else None
        value = getattr(kinship, self._metric) if kinship else None
        marks = standing_mark(model, self._top) + (EXPLORATION if model.kind == "exploration" else " ") + " "
        return Row(
            marks=Text(marks, style="red" if model.status == "failed" else ""),
            numbers=(
                Text(model.name, style="bold" if model.name in self._top[:1] else ""),
                _average(model),
                Text("" if gain is None else signed(gain), style=gain_style(gain)),
                Text(kinship_number(value, self._metric) if model.parents else ""),
            ),
            parents=self._parents(model),
            tasks=tuple(Text(f"{task} {points(score.value)}", style="dim") for task, score in model.scores.items()),
            reason=Text(one_line(model.reason or ""), style="red"),
        )

    def _parents(self, model: Model) -> Text:
        text = Text(f" {TIMES} ".join(model.parents))
        if len(self._recipes) > 1 and model.recipe_name is not None:
            text.append(f" by {model.recipe_name}")
        return text

    def _end(self) -> Iterable[Text]:
        """S with its kinship, then why the run stopped or how far it is."""
        tree = self._tree
        if self._top:
            value = top_kinship(tree)
            kinship = "not measured" if value is None else f"{kinship_number(value, self._metric)} ({self._metric})"
            yield Text(f"S = {', '.join(self._top)}; its mean kinship: {kinship}", overflow="fold")
        stop = stop_text(tree)
        if stop is not None:
            yield Text(overflow="fold").append("Stopped", "bold").append(f": {stop}")
            return
        newest = generations(tree)[tree.generation]
        done = sum(model.status == "evaluated" for model in newest)
        yield Text(f"Not finished: {done} of the {len(newest)} models of generation {tree.generation} are scored")


def _average(model: Model) -> Text:
    if model.status == "evaluated":
        return Text(measured(model.average, model.average_stderr))
    words = {"planned": "to merge", "merged": "to score", "failed": "failed"}
    return Text(words[model.status], style="red" if model.status == "failed" else "yellow")
