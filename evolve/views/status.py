"""Where a run stands, and what came of it at its end."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import PurePath

from rich.console import RenderableType
from rich.text import Text

from evolve.lineage import FamilyTree, Model
from evolve.views.facts import Lead, effort, generations, lead, top_kinship
from evolve.views.numbers import duration, kinship_number, measured, points, signed_measured
from evolve.views.text import BEST, View, command, facts_grid, gain_style, one_line, plain, stop_text

__all__ = ["status_view", "summary_view"]


def status_view(tree: FamilyTree, *, folder: str, running: str | None) -> RenderableType:
    """Where the run stands.

    Args:
        tree: The tree as it stands.
        folder: The run folder, as the user would type it.
        running: The process that holds the run, in words; None where none does.
    """
    return View(
        Text(overflow="fold").append(tree.config.name, "bold").append(f" in {folder}"),
        Text(),
        facts_grid(
            [
                ("state", _state(tree, folder, running)),
                ("generation", _generation(tree)),
                ("models", _counts(tree.models)),
                *_open(tree),
                *_failed(tree),
                *_best(tree),
                *_top(tree),
                ("time", _time(tree)),
            ]
        ),
    )


def summary_view(tree: FamilyTree, *, folder: str) -> RenderableType:
    """What came of a run: the best model, how sure it is that it is better, where it is and what to do with it.

    Args:
        tree: The tree at the end of the run.
        folder: The run folder, as the user would type it.
    """
    found = lead(tree)
    parts: list[RenderableType] = [Text("No model was scored.")] if found is None else _result(tree, found)
    path = PurePath(folder)
    rows = [("stopped", stop_text(tree) or "not yet"), ("models", _counts(tree.models)), *_failed(tree)]
    rows += [("time", _time(tree))]
    if found is not None and found.best.checkpoint is not None:
        rows.append(("checkpoint", str(path / found.best.checkpoint)))
    rows += [("family tree", str(path / "family_tree.json")), ("journal", str(path / "journal.jsonl"))]
    parts += [Text(), facts_grid(rows), Text(), Text("Next", style="bold")]
    parts += [Text(f"  {line}", overflow="fold") for line in _next(folder, found)]
    return View(*parts)


def _state(tree: FamilyTree, folder: str, running: str | None) -> Text:
    stop = stop_text(tree)
    if stop is not None:
        return Text(f"stopped: {stop}")
    if running is not None:
        return Text(f"running: {plain(running)}", style="green")
    return Text(f"interrupted: go on with `{command('evolve', 'resume', folder)}`", style="yellow")


def _generation(tree: FamilyTree) -> str:
    newest = generations(tree)[tree.generation]
    limit = tree.config.strategy.max_generations
    return f"{tree.generation} of at most {limit}: {_counts(newest)}"


def _counts(models: list[Model]) -> str:
    states = [model.status for model in models]
    words = {"evaluated": "scored", "merged": "to score", "planned": "to merge", "failed": "failed"}
    found = [f"{states.count(state)} {word}" for state, word in words.items() if state in states]
    return ", ".join(found)


def _open(tree: FamilyTree) -> Iterable[tuple[str, str]]:
    """What the planned generations still lack."""
    for status, word in (("planned", "to merge"), ("merged", "to score")):
        names = [m.name for models in generations(tree).values() for m in models if m.status == status]
        if names:
            yield word, ", ".join(names)


def _failed(tree: FamilyTree) -> Iterable[tuple[str, str]]:
    failed = [m for models in generations(tree).values() for m in models if m.status == "failed"]
    if failed:
        yield "failed", "\n".join(f"{model.name}: {one_line(model.reason or '')}" for model in failed)


def _best(tree: FamilyTree) -> Iterable[tuple[str, str | Text]]:
    found = lead(tree)
    if found is None:
        best = tree.ranking[:1]
        text = f"{best[0].name}  {measured(best[0].average, best[0].average_stderr)}" if best else "no scores yet"
        yield "best", text
        return
    best_text = Text(f"{BEST} {found.best.name}  {measured(found.best.average, found.best.average_stderr)}")
    yield "best", best_text
    yield "best foundation", f"{found.foundation.name}  {points(found.foundation.average)}"
    if found.best.name != found.foundation.name:
        value, stderr = found.difference.value, found.difference.stderr
        yield "gain over it", Text(signed_measured(value, stderr), style=gain_style(value))


def _top(tree: FamilyTree) -> Iterable[tuple[str, str]]:
    """S with its kinship and what that is compared with."""
    strategy = tree.config.strategy
    top = tree.top(strategy.top_k)
    if not top:
        return
    yield f"S (k = {strategy.top_k})", ", ".join(f"{name} {points(tree.model(name).average)}" for name in top)
    value = top_kinship(tree)
    text = "not measured" if value is None else f"{kinship_number(value, strategy.metric)} ({strategy.metric})"
    if strategy.stop_at_kinship is not None:
        word = "below" if strategy.metric == "ed" else "above"
        text += f"; the run stops {word} {strategy.stop_at_kinship:g}"
    yield "kinship of S", text


def _time(tree: FamilyTree) -> str:
    done = effort(tree)
    text = f"merging {duration(done.merge_seconds)}, scoring {duration(done.evaluate_seconds)}"
    return text + (f"; {done.reused} scores reused" if done.reused else "")


def _result(tree: FamilyTree, found: Lead) -> list[RenderableType]:
    """The best model, and what its gain is worth."""
    best, foundation, gain = found.best, found.foundation, found.difference
    title = Text(f"{BEST} ", overflow="fold").append(best.name, "bold")
    title.append(f" is the best model: {measured(best.average, best.average_stderr)} points")
    if best.name == foundation.name:
        return [title, Text("It is a foundation: no merge is better.", style="yellow")]
    line = Text("Gain over the best foundation, ", overflow="fold")
    line.append(f"{foundation.name} ({measured(foundation.average, foundation.average_stderr)}): ")
    line.append(signed_measured(gain.value, gain.stderr), gain_style(gain.value))
    words = {
        True: "It is larger than two standard errors (errors taken as independent).",
        False: "It is not larger than two standard errors (errors taken as independent): it may be chance.",
        None: "Its standard error is not known, as a task gives none.",
    }
    scored = len(tree.ranking)
    chosen = f"The best of {scored} was chosen by these same items: expect a smaller gain on others."
    return [title, line, Text(words[gain.is_clear]), Text(chosen, style="dim")]


def _next(folder: str, found: Lead | None) -> Iterable[str]:
    yield command("evolve", "tree", folder)
    if found is None:
        return
    yield command("evolve", "show", folder, found.best.name)
    if found.best.checkpoint is not None:
        yield "in Python, with AutoModelForCausalLM of transformers:"
        path = json.dumps(str(PurePath(folder) / found.best.checkpoint))
        yield f"AutoModelForCausalLM.from_pretrained({path})"
