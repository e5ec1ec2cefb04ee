"""One model of a run in detail."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType
from rich.text import Text

from evolve.analysis import better_parent_difference, gain_of, state_of
from evolve.config import METRICS
from evolve.lineage import FamilyTree, Model, RaceStanding, pair
from evolve.views.numbers import (
    UNKNOWN,
    duration,
    kinship_number,
    measured,
    model_average,
    model_points,
    moment,
    points,
    signed,
    signed_measured,
    size,
)
from evolve.views.text import BEST, Facts, Part, Table, View, difference_style, plain

__all__ = ["model_view"]

_LEGEND = (
    "gain: average minus the mean of the parents' averages",
    "vs better: average minus that of the better parent",
    "Standard errors take the scores as independent. Models share their items, so those of differences are too large.",
)


_SAMPLING = "The errors are those of the sampling: how far an estimate may lie from the score on all items."


def model_view(tree: FamilyTree, name: str) -> RenderableType:
    """Return the scores, parents, children and history of one model.

    Raises:
        KeyError: The tree has no model of that name.
    """
    model = tree.model(name)
    parts: list[Part] = [_title(tree, model), Text()]
    if model.race is not None and model.is_estimated:
        parts += [_estimates(model, model.race), Text(_SAMPLING, style="dim"), Text()]
    if model.scores:
        legend = [Text(line, style="dim") for line in _LEGEND] if model.parents else []
        parts += [_scores(tree, model), *legend, Text()]
    parts.append(Facts([*_family(tree, model), *_origin(tree, model), *_history(model)]))
    return View(*parts)


def _title(tree: FamilyTree, model: Model) -> Text:
    ranking = [ranked.name for ranked in tree.ranking]
    top_k = tree.config.strategy.top_k
    kind = "exploration merge" if model.kind == "exploration" else model.kind
    title = Text().append(model.name, "bold").append(f": {kind} of generation {model.generation}, ")
    if model.name not in ranking:
        state = f"{state_of(model)} after rung {model.rungs}" if model.race is not None else state_of(model)
        return title.append(state, "red" if model.status == "failed" else "yellow")
    rank = ranking.index(model.name) + 1
    title.append(f"rank {rank} of {len(ranking)}")
    if rank == 1:
        title.append(f" {BEST}")
    return title.append(f", among the best {top_k}" if rank <= top_k else "")


def _scores(tree: FamilyTree, model: Model) -> Table:
    """Return a table with one row a task and one for the average; a child's is beside its parents'."""
    headings = ["task", "points", *(["parents' mean", "gain", "vs better"] if model.parents else [])]
    lower = {task.task for task in tree.config.evaluation.tasks if task.signed_weight < 0}
    rows = [
        [
            Text(task),
            Text(measured(score.value, score.stderr)),
            *_compared(tree, model, task, -1 if task in lower else 1),
        ]
        for task, score in model.scores.items()
    ]
    average = Text(measured(model.average, model.average_stderr))
    footer = [Text("average"), average, *_compared(tree, model, None, 1)]
    return Table([Text(heading) for heading in headings], rows, footer=footer, right=(2, 3, 4))


def _estimates(model: Model, race: RaceStanding) -> Table:
    """Return a table of the estimates after the last rung, with one row a task."""
    headings = [Text(heading) for heading in ("task", "estimate", "items answered")]
    rows = [
        [Text(task), Text(measured(found.value, found.stderr)), Text(f"{found.answered} of {found.items}")]
        for task, found in race.estimates.items()
    ]
    return Table(headings, rows, footer=[Text("average"), Text(model_average(model)), Text()], right=(2,))


def _compared(tree: FamilyTree, model: Model, task: str | None, sign: int) -> list[Text]:
    """Return the cells that compare a child with its parents; `sign` is -1 for a task where lower is better."""
    gain, over = gain_of(tree, model.name, task), better_parent_difference(tree, model.name, task)
    if gain is None or over is None:
        return []
    value = (model.average or 0.0) if task is None else model.scores[task].value
    gained, over_better = (signed_measured(found.value, found.stderr) for found in (gain, over))
    return [Text(points(value - gain.value)), Text(gained), Text(over_better, difference_style(sign * over.value))]


def _family(tree: FamilyTree, model: Model) -> Iterable[tuple[str, str | Text]]:
    """Yield the parents with their kinship, and the children."""
    for number, name in enumerate(model.parents, start=1):
        parent = tree.model(name)
        yield f"parent {number}", f"{name}  {model_average(parent)}"
    kinship = tree.kinship(*model.parents) if model.parents else None
    if model.parents and kinship is None:
        yield "parents' kinship", "not measured"
    if kinship is not None:
        values = (f"{metric} {kinship_number(kinship.value(metric), digits=4)}" for metric in METRICS)
        yield "parents' kinship", "  ".join(values)
    for left in tree.left_out.get(pair(*model.parents), ()) if model.parents else ():
        yield "not compared", f"{left.rows} rows of {left.tensor} ({left.share:.2%} of the base)"
    children = [tree.model(child) for child in tree.graph.successors(model.name)]
    yield "children", "\n".join(f"{child.name}  {_outcome(tree, child)}" for child in children) or "none"


def _outcome(tree: FamilyTree, child: Model) -> str:
    if child.average is None:
        return f"{state_of(child)}  {model_average(child)}" if child.is_estimated else state_of(child)
    over = signed(tree.gain_over_better_parent(child.name))
    return f"{model_points(child)}  gain {signed(tree.gain(child.name))}  vs better {over}"


def _origin(tree: FamilyTree, model: Model) -> Iterable[tuple[str, str | Text]]:
    """Yield why and how it was merged or where it comes from, and what it is."""
    yield "decision", plain(model.decision)
    if model.recipe_name is not None:
        yield "recipe", model.recipe_name + (f"  {model.recipe}" if model.recipe else "")
    if model.tokenizer is not None:
        yield "tokenizer", model.tokenizer
    sources = {entry.name: entry for entry in tree.origin.foundations}
    if model.name in sources:
        entry = sources[model.name]
        yield "source", entry.source + (f" at revision {entry.revision}" if entry.revision else "")
        if entry.prepared is not None:
            yield "prepared", {"adapter": "adapter merged", "pickled": "weights converted"}[entry.prepared.kind]
    yield "checkpoint", model.checkpoint or UNKNOWN
    yield "identity", model.identity or UNKNOWN
    yield "size", size(model.bytes)
    yield "metrics", "\n".join(f"{task}  {score.metric}" for task, score in model.scores.items()) or UNKNOWN


def _history(model: Model) -> Iterable[tuple[str, str | Text]]:
    """Yield its times and its errors."""
    for status, at in model.times.items():
        yield status, moment(at)
    if model.race is not None:
        bounds = f"{points(model.race.interval.low)} to {points(model.race.interval.high)}"
        yield "race", f"rung {model.race.rung}, {model.race.share:.0%} of the items: average from {bounds}"
    if model.kind != "foundation":
        yield "time to merge", duration(model.seconds.get("merge"))
    batch = f", batch size {model.batch_size}" if model.batch_size is not None else ""
    if model.reused:
        yield "time to score", f"none: all scores were cached{batch}"
    else:
        cached = f"; cached: {', '.join(model.reused_tasks)}" if model.reused_tasks else ""
        yield "time to score", duration(model.seconds.get("evaluate")) + batch + cached
    if model.reason is not None:
        yield f"failed to {model.failed_step}", Text(plain(model.reason), style="red")
    if model.retries:
        yield "retried", "\n".join(plain(reason) for reason in model.retries)
    if model.remade:
        yield "merged again", "\n".join(plain(reason) for reason in model.remade)
