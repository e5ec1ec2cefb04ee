"""The family tree in the terminal: each generation, and each model with its scores, gain and parents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from evolve.analysis import generations, state_of, top_kinship
from evolve.lineage import Estimate, FamilyTree, Model, Score
from evolve.views.layout import Layout, Row
from evolve.views.numbers import kinship_number, model_average, points, signed
from evolve.views.text import (
    BEST,
    DROPPED,
    EXPLORATION,
    FAILED,
    IN_TOP,
    TIMES,
    View,
    difference_style,
    one_line,
    plain,
    standing_mark,
    stop_text,
    wrap_words,
)

__all__ = ["tree_view"]

_BRANCH, _LAST, _PAST, _BELOW = "├── ", "└── ", "│   ", "    "


def tree_view(tree: FamilyTree) -> RenderableType:
    """Return the complete family: its generations, and in each the models in the order planned, with their parents."""
    return View(_Family(tree))


class _Family:
    def __init__(self, tree: FamilyTree) -> None:
        self._tree = tree
        self._metric = tree.config.strategy.metric
        self._top = tree.top(tree.config.strategy.top_k)
        self._recipes = {model.recipe_name for model in tree.models if model.recipe_name is not None}

    def lines(self, width: int) -> Iterable[Text]:
        """Return the lines, wrapped for a width."""
        family = generations(self._tree)
        rows = {model.name: self._row(model) for models in family.values() for model in models}
        headings = ("model", "average", "gain", "vs\nbetter", self._metric, "parents")
        layout = Layout(list(rows.values()), headings, width - len(_BRANCH))
        for part in (self._title(), *self._legend(), *self._warnings(), Text()):
            yield from wrap_words(part, width)
        for heading in layout.headings():
            yield Text(_BELOW) + heading
        for generation, models in family.items():
            yield from wrap_words(self._generation(generation), width)
            for model in models:
                yield from _branch(layout.lines(rows[model.name]), is_last=model is models[-1])
        for part in (Text(), *self._end()):
            yield from wrap_words(part, width)

    def _title(self) -> Text:
        config = self._tree.config
        rest = f": {config.strategy.name} strategy, k = {config.strategy.top_k}, kinship by {self._metric}"
        return Text().append(config.name, "bold").append(rest)

    def _legend(self) -> Iterable[Text]:
        """Yield the signs in use, and the meaning of the numbers."""
        models = self._tree.models
        signs = [f"{BEST} best", f"{IN_TOP} among the best {self._tree.config.strategy.top_k}"]
        if any(model.kind == "exploration" for model in models):
            signs.append(f"{EXPLORATION} exploration")
        if any(model.status == "failed" for model in models):
            signs.append(f"{FAILED} failed")
        if any(model.status == "dropped" for model in models):
            signs.append(f"{DROPPED} dropped")
        yield Text("   ".join([*signs, "scores in points"]), style="dim")
        if any(model.is_estimated for model in models):
            yield Text("(40%): an estimate from so many of the items, with the error of the sampling", style="dim")
        if any(model.parents for model in models):
            yield Text("gain: average minus the mean of the parents' averages", style="dim")
            yield Text("vs better: average minus that of the better parent", style="dim")

    def _warnings(self) -> Iterable[Text]:
        """Yield a line for each setting of the architecture that differs among base and foundations."""
        for setting, values in self._tree.origin.differing_settings.items():
            listed = ", ".join(f"{name}: {_setting(value)}" for name, value in values.items())
            text = f"Warning: {plain(setting)} differs ({plain(listed)}); a merge takes the value of parent 1"
            yield Text(text, style="yellow")

    def _generation(self, generation: int) -> Text:
        heading = Text().append(f"Generation {generation}", "bold")
        if generation == 0:
            return heading.append(": foundation models")
        if generation == 1:
            return heading.append(": every pair of foundations")
        top = self._tree.tops[generation]
        return heading.append(f" from the best {len(top)}: {', '.join(top)}")

    def _row(self, model: Model) -> Row:
        gain, over = self._tree.gain(model.name), self._tree.gain_over_better_parent(model.name)
        kinship = self._tree.kinship(*model.parents) if model.parents else None
        value = kinship.value(self._metric) if kinship else None
        marks = standing_mark(model, self._top) + (EXPLORATION if model.kind == "exploration" else " ") + " "
        return Row(
            marks=Text(marks, style="red" if model.status == "failed" else ""),
            numbers=(
                Text(model.name, style="bold" if model.name in self._top[:1] else ""),
                _average(model),
                Text("" if gain is None else signed(gain)),
                Text("" if over is None else signed(over), style=difference_style(over)),
                Text(kinship_number(value) if model.parents else ""),
            ),
            parents=self._parents(model),
            tasks=tuple(Text(f"{task} {points(score.value)}", style="dim") for task, score in _scores(model).items()),
            reason=Text(one_line(model.reason or ""), style="red"),
        )

    def _parents(self, model: Model) -> Text:
        text = Text(f" {TIMES} ".join(model.parents))
        if len(self._recipes) > 1 and model.recipe_name is not None:
            text.append(f" by {model.recipe_name}")
        return text

    def _end(self) -> Iterable[Text]:
        """Yield the best models with their kinship, then why the run stopped or how far it is."""
        tree = self._tree
        if self._top:
            value = top_kinship(tree)
            kinship = "not measured" if value is None else f"{kinship_number(value)} ({self._metric})"
            yield Text(f"Best {len(self._top)}: {', '.join(self._top)}; mean kinship: {kinship}")
        stop = stop_text(tree)
        if stop is not None:
            yield Text().append("Stopped", "bold").append(f": {stop}")
            return
        newest = generations(tree)[tree.generation]
        done = sum(model.status in {"evaluated", "estimated", "dropped"} for model in newest)
        yield Text(f"Not finished: {done} of {len(newest)} models of generation {tree.generation} are scored")


def _branch(lines: list[Text], *, is_last: bool) -> Iterable[Text]:
    """Yield the lines of a model with the guides of the tree before them."""
    first, other = (_LAST, _BELOW) if is_last else (_BRANCH, _PAST)
    for number, line in enumerate(lines):
        guided = Text.assemble((other if number else first, "dim"), line)
        guided.rstrip()
        yield guided


def _average(model: Model) -> Text:
    if model.status == "evaluated" or model.is_estimated:
        return Text(model_average(model), style="yellow" if model.status == "racing" else "")
    return Text(state_of(model), style="red" if model.status == "failed" else "yellow")


def _scores(model: Model) -> Mapping[str, Score | Estimate]:
    """Return the scores of a model, or its estimates."""
    return model.race.estimates if model.is_estimated and model.race is not None else model.scores


def _setting(value: Any) -> str:
    return "null" if value is None else str(value)
