"""All about one model of a run."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from evolve.lineage import FamilyTree, Model, pair
from evolve.views.facts import gain_of, task_gain
from evolve.views.numbers import UNKNOWN, duration, kinship_number, measured, points, signed, signed_measured, size
from evolve.views.text import BEST, View, facts_grid, gain_style, plain, state_of

__all__ = ["model_view"]

_CONSERVATIVE = (
    "Standard errors take scores as independent; as models share their items, that of a gain is conservative."
)


def model_view(tree: FamilyTree, name: str) -> RenderableType:
    """Scores, parents, children and history of one model.

    Raises:
        KeyError: The tree has no model of that name.
    """
    model = tree.model(name)
    parts: list[RenderableType] = [_title(tree, model), Text()]
    if model.scores:
        parts += [_scores(tree, model), *([Text(_CONSERVATIVE, style="dim")] if model.parents else []), Text()]
    parts.append(facts_grid([*_family(tree, model), *_making(tree, model), *_history(model)]))
    return View(*parts)


def _title(tree: FamilyTree, model: Model) -> Text:
    ranking = [ranked.name for ranked in tree.ranking]
    title = Text(overflow="fold").append(model.name, "bold")
    title.append(f": {_kind(model)} of generation {model.generation}, ")
    if model.name not in ranking:
        return title.append(state_of(model), "red" if model.status == "failed" else "yellow")
    rank = ranking.index(model.name) + 1
    title.append(f"rank {rank} of {len(ranking)}")
    if rank == 1:
        title.append(f" {BEST}")
    return title.append(", in S" if rank <= tree.config.strategy.top_k else "")


def _kind(model: Model) -> str:
    return {"foundation": "foundation", "merge": "merge", "exploration": "exploration merge"}[model.kind]


def _scores(tree: FamilyTree, model: Model) -> Table:
    """One line a task and one for the average; for a child beside the mean of its parents."""
    metrics = {task.task: task.metric for task in tree.config.evaluation.tasks}
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, show_footer=True)
    gain = gain_of(tree, model.name)
    table.add_column("task", "average", overflow="fold")
    table.add_column("metric", "", overflow="fold", style="dim")
    table.add_column("points", Text(measured(model.average, model.average_stderr)), no_wrap=True)
    if gain is not None and model.average is not None:
        table.add_column("parents", points(model.average - gain.value), justify="right", no_wrap=True)
        table.add_column("gain", _gain(gain.value, gain.stderr), justify="right", no_wrap=True)
    for task, score in model.scores.items():
        cells = [Text(task), Text(metrics.get(task, score.metric)), Text(measured(score.value, score.stderr))]
        difference = task_gain(tree, model.name, task)
        if difference is not None:
            cells += [Text(points(score.value - difference.value)), _gain(difference.value, difference.stderr)]
        table.add_row(*cells)
    return table


def _gain(value: float, stderr: float | None) -> Text:
    return Text(signed_measured(value, stderr), style=gain_style(value))


def _family(tree: FamilyTree, model: Model) -> Iterable[tuple[str, str | Text]]:
    """Parents with their kinship, and children."""
    for number, parent in enumerate(model.parents, start=1):
        average = tree.model(parent)
        yield f"parent {number}", f"{parent}  {measured(average.average, average.average_stderr)}"
    kinship = tree.kinship(*model.parents) if model.parents else None
    if model.parents and kinship is None:
        yield "parents' kinship", "not measured"
    if kinship is not None:
        values = ((metric, getattr(kinship, metric)) for metric in ("pcc", "cs", "ed"))
        yield "parents' kinship", "  ".join(f"{m} {kinship_number(value, m, digits=4)}" for m, value in values)
    for left in tree.left_out.get(pair(*model.parents), ()) if model.parents else ():
        yield "not compared", f"{left.rows} rows of {left.tensor} ({left.share:.2%} of the base)"
    children = [tree.model(child) for child in tree.graph.successors(model.name)]
    lines = [f"{c.name}  {_outcome(tree, c)}" for c in children]
    yield "children", "\n".join(lines) or "none"


def _outcome(tree: FamilyTree, child: Model) -> str:
    if child.average is None:
        return state_of(child)
    return f"{points(child.average)}  gain {signed(tree.gain(child.name))}"


def _making(tree: FamilyTree, model: Model) -> Iterable[tuple[str, str | Text]]:
    """Why and how it was made, and where it is."""
    yield "decision", plain(model.decision)
    if model.recipe_name is not None:
        yield "recipe", model.recipe_name + (f"  {model.recipe}" if model.recipe else "")
    sources = {entry.name: entry for entry in tree.origin.foundations}
    if model.name in sources:
        entry = sources[model.name]
        yield "source", entry.source + (f" at revision {entry.revision}" if entry.revision else "")
    yield "checkpoint", model.checkpoint or UNKNOWN
    yield "identity", model.identity or UNKNOWN
    yield "size", size(model.bytes)


def _history(model: Model) -> Iterable[tuple[str, str | Text]]:
    """Times, and what went wrong."""
    if model.kind != "foundation":
        yield "time to merge", duration(model.seconds.get("merge"))
    batch = f", batches of {model.batch_size}" if model.batch_size is not None else ""
    if model.reused:
        yield "time to score", f"none: its scores come from the score store{batch}"
    else:
        yield "time to score", duration(model.seconds.get("evaluate")) + batch
    if model.reason is not None:
        yield state_of(model), Text(plain(model.reason), style="red")
    if model.retries:
        yield "retried", "\n".join(plain(reason) for reason in model.retries)
    if model.remade:
        yield "remade", "\n".join(plain(reason) for reason in model.remade)
