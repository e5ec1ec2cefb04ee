"""The status of a run, the position of a resumed run, and the summary of a finished one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from rich.console import RenderableType
from rich.text import Text

from evolve.analysis import Lead, State, by_state, effort, generations, lead, remaining, top_kinship
from evolve.config import METRICS
from evolve.lineage import (
    EvaluateStep,
    FamilyTree,
    GenerationPlanned,
    MergeStep,
    Model,
    ModelDropped,
    RunStopped,
    Step,
    plan,
)
from evolve.views.events import describe_event
from evolve.views.numbers import duration, kinship_number, model_average, model_points, moment, points, signed_measured
from evolve.views.text import BEST, Facts, Part, View, command, difference_style, one_line, plain, stop_text

__all__ = ["Progress", "resume_line", "status_view", "summary_view", "time_left"]


@dataclass(frozen=True)
class Progress:
    """The progress of the current step.

    Attributes:
        step: The step, such as `evaluate model-2-3`.
        words: Name of the current work.
        done: Number of finished units of work.
        total: Number of all units; 0 if unknown.
    """

    step: str
    words: str
    done: int
    total: int

    @property
    def percent(self) -> int | None:
        """The share of the work that is done, in percent without decimals; None if the total is unknown."""
        return min(100, 100 * self.done // self.total) if self.total > 0 else None


def status_view(
    tree: FamilyTree, *, folder: str, running: str | None, progress: Progress | None = None
) -> RenderableType:
    """Return the view of the status of a run.

    Args:
        tree: The current tree.
        folder: The run folder, as the user would type it.
        running: The process that drives the run, in words; None if there is none.
        progress: The progress of its current step, if known.
    """
    return View(
        Text().append(tree.config.name, "bold").append(f" in {folder}"),
        Text(),
        Facts(
            [
                ("state", _state(tree, running)),
                *_step(tree, folder, running, progress),
                ("generation", _generation(tree)),
                ("models", _counts(tree.models)),
                *_open(tree),
                *_failed(tree),
                *_best(tree),
                *_top(tree),
                ("time", _time(tree)),
                *_estimate(tree),
                *_last_event(tree),
            ]
        ),
    )


def summary_view(tree: FamilyTree, *, folder: str) -> RenderableType:
    """Return the result of a run: the best model, how sure its gain is, where it is, and commands to use it.

    Args:
        tree: The tree at the end of the run.
        folder: The run folder, as the user would type it.
    """
    found = lead(tree)
    parts: list[Part] = [Text("No model was scored.")] if found is None else _result(tree, found)
    path = PurePath(folder)
    rows = [("stopped", stop_text(tree) or "not yet"), ("models", _counts(tree.models)), *_failed(tree)]
    rows += [("time", _time(tree))]
    if found is not None and found.best.checkpoint is not None:
        rows.append(("checkpoint", str(path / found.best.checkpoint)))
    rows += [("family tree", str(path / "family_tree.json")), ("journal", str(path / "journal.jsonl"))]
    parts += [Text(), Facts(rows), Text(), Text("Next", style="bold")]
    parts += [Text("  ", no_wrap=True).append(line) for line in _next(folder, found)]
    return View(*parts)


def resume_line(tree: FamilyTree) -> str:
    """Return a sentence about the point at which a resumed run continues."""
    stop = stop_text(tree)
    if stop is not None:
        return f"the run has finished: {stop}"
    newest = by_state(generations(tree)[tree.generation])
    total = sum(map(len, newest.values()))
    others: tuple[State, ...] = ("estimated", "racing", "dropped", "failed")
    rest = "".join(f", {len(newest[state])} {state}" for state in others if newest[state])
    scored = f"{len(newest['scored'])} of {total} models scored{rest}"
    return f"resuming in generation {tree.generation}: {scored}, next: {_next_step(tree)}"


def _next_step(tree: FamilyTree) -> str:
    decision = plan(tree)
    match decision:
        case RunStopped():
            return f"stop ({decision.reason})"
        case GenerationPlanned():
            return f"plan generation {decision.generation}"
        case ModelDropped():
            return f"drop {decision.model}"
        case _:
            return _step_in_words(decision.steps[0])


def _step_in_words(step: Step) -> str:
    match step:
        case MergeStep(model):
            return f"merge {model}"
        case EvaluateStep(model, rung):
            return f"evaluate {model}" + ("" if rung is None else f" (rung {rung})")
        case _:
            count = len(step.pairs)
            return f"measure the kinship of {count} {'pair' if count == 1 else 'pairs'}"


def _state(tree: FamilyTree, running: str | None) -> Text:
    stop = stop_text(tree)
    if stop is not None:
        return Text(f"stopped: {stop}")
    if running is not None:
        return Text(f"running: {plain(running)}", style="green")
    return Text("interrupted: the run has not finished and no process drives it", style="yellow")


def _step(
    tree: FamilyTree, folder: str, running: str | None, progress: Progress | None
) -> Iterable[tuple[str, str | Text]]:
    """Yield the current step of a running run; for an interrupted run, where and how it would continue."""
    if tree.stop is not None:
        if tree.stop.reason == "failed":
            yield "try again with", Text(command("evolve", "resume", folder), no_wrap=True)
        return
    if running is None:
        yield "reason", f"the process ended or was ended; the end of {PurePath(folder) / 'run.log'} says more"
        yield "next step", _next_step(tree)
        yield "resume with", Text(command("evolve", "resume", folder), no_wrap=True)
    elif progress is not None:
        words = "" if progress.words in {"", progress.step} else f": {plain(progress.words)}"
        share = "" if progress.percent is None else f", {progress.percent} %"
        yield "step", f"{plain(progress.step)}{words}{share}"


def _last_event(tree: FamilyTree) -> Iterable[tuple[str, str]]:
    if tree.history:
        last = tree.history[-1]
        at = "" if last.at is None else f"{moment(last.at)}: "
        yield "last event", at + one_line(describe_event(last.event, tree))


def time_left(tree: FamilyTree) -> str | None:
    """Return the estimated time left, in words; None while it cannot be estimated, and after the run has stopped."""
    left = remaining(tree)
    if left is None:
        return None
    generation = f"about {duration(left.seconds_for_generation)} for generation {tree.generation}"
    return f"{generation}, at most about {duration(left.seconds_at_most)} for the run"


def _estimate(tree: FamilyTree) -> Iterable[tuple[str, str]]:
    left = time_left(tree)
    if left is not None:
        yield "time left", left


def _generation(tree: FamilyTree) -> str:
    newest = generations(tree)[tree.generation]
    limit = tree.config.strategy.max_generations
    return f"{tree.generation} of at most {limit}: {_counts(newest)}"


def _counts(models: Sequence[Model]) -> str:
    return ", ".join(f"{len(found)} {state}" for state, found in by_state(models).items() if found)


def _in_order(tree: FamilyTree) -> list[Model]:
    return [model for models in generations(tree).values() for model in models]


def _open(tree: FamilyTree) -> Iterable[tuple[str, str]]:
    """Yield the models that still have to be merged or scored."""
    found = by_state(_in_order(tree))
    if found["to merge"]:
        yield "to merge", ", ".join(model.name for model in found["to merge"])
    if found["to score"]:
        yield "to score", ", ".join(model.name for model in found["to score"])
    if found["racing"]:
        yield "racing", ", ".join(f"{model.name} {model_average(model)}" for model in found["racing"])


def _failed(tree: FamilyTree) -> Iterable[tuple[str, str]]:
    failed = by_state(_in_order(tree))["failed"]
    if failed:
        yield "failed", "\n".join(f"{model.name}: {one_line(model.reason or '')}" for model in failed)


def _best(tree: FamilyTree) -> Iterable[tuple[str, str | Text]]:
    found = lead(tree)
    if found is None:
        best = tree.ranking[:1]
        text = f"{best[0].name}  {model_average(best[0])}" if best else "no scores yet"
        yield "best", text
        return
    yield "best", f"{BEST} {found.best.name}  {model_average(found.best)}"
    yield "best foundation", f"{found.foundation.name}  {points(found.foundation.average)}"
    if found.best.name != found.foundation.name:
        value, stderr = found.difference.value, found.difference.stderr
        yield "difference", Text(signed_measured(value, stderr), style=difference_style(value))


def _top(tree: FamilyTree) -> Iterable[tuple[str, str]]:
    """Yield the best k models, and their kinship with its threshold."""
    strategy = tree.config.strategy
    top = tree.top(strategy.top_k)
    if not top:
        return
    yield f"best {len(top)}", ", ".join(f"{name} {model_points(tree.model(name))}" for name in top)
    value = top_kinship(tree)
    text = "not measured" if value is None else f"{kinship_number(value)} ({strategy.metric})"
    if strategy.stop_at_kinship is not None:
        text += f"; the run stops {METRICS[strategy.metric].beyond} {strategy.stop_at_kinship:g}"
    yield "mean kinship", text


def _time(tree: FamilyTree) -> str:
    done = effort(tree)
    text = f"merging {duration(done.merge_seconds)}, scoring {duration(done.evaluate_seconds)}"
    return text + (f"; scores of {done.reused} models cached" if done.reused else "")


def _result(tree: FamilyTree, found: Lead) -> list[Part]:
    """Return the best model, and how sure its difference to the best foundation is."""
    best, foundation, difference = found.best, found.foundation, found.difference
    title = Text(f"{BEST} ").append(best.name, "bold")
    title.append(f" is the best model: {model_average(best)} points")
    if best.name == foundation.name:
        return [title, Text("It is a foundation: no merge is better.", style="yellow")]
    line = Text("Difference to the best foundation, ")
    line.append(f"{foundation.name} ({model_average(foundation)}): ")
    line.append(signed_measured(difference.value, difference.stderr), difference_style(difference.value))
    words = {
        True: "It is larger than two standard errors (errors taken as independent).",
        False: "It is not larger than two standard errors (errors taken as independent): it may be chance.",
        None: "Its standard error is not known, because a task has none.",
    }
    if best.is_estimated:
        words[None] = "It is an estimate: the run has not scored the best models in full."
    tried = sum(model.known_average is not None for model in tree.models)
    chosen = f"The best of {tried} models was chosen on these items: expect a smaller difference on others."
    return [title, line, Text(words[difference.is_clear]), Text(chosen, style="dim")]


def _next(folder: str, found: Lead | None) -> Iterable[str]:
    yield command("evolve", "tree", folder)
    if found is None:
        return
    yield command("evolve", "show", folder, found.best.name)
    if found.best.checkpoint is not None:
        yield "in Python, with AutoModelForCausalLM of transformers:"
        path = json.dumps(str(PurePath(folder) / found.best.checkpoint))
        yield f"AutoModelForCausalLM.from_pretrained({path})"
