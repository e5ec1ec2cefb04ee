"""The events of a run in words."""

from __future__ import annotations

from evolve.lineage import (
    CheckpointRemade,
    Event,
    FamilyTree,
    GenerationPlanned,
    InputsMoved,
    KinshipMeasured,
    ModelDropped,
    ModelEvaluated,
    ModelFailed,
    ModelMerged,
    RunContinued,
    RungScored,
    RunStarted,
    RunStopped,
    SettingsChanged,
    StepRetried,
)
from evolve.views.numbers import duration, model_average, points, signed, size

__all__ = ["describe_event"]


def describe_event(event: Event, tree: FamilyTree) -> str:
    """Return one line about an event.

    Args:
        event: The event.
        tree: The tree after it.
    """
    match event:
        case RunStarted() | SettingsChanged() | InputsMoved() | RunStopped() | RunContinued():
            return _of_the_run(event, tree)
        case GenerationPlanned():
            pairs = ", ".join(f"{m.name} = {m.parents[0]} × {m.parents[1]}" for m in event.merges)
            return f"generation {event.generation}: {pairs}"
        case KinshipMeasured():
            metric = tree.config.strategy.metric
            return f"kinship of {event.a} and {event.b}: {metric} {event.kinship.value(metric):.3f}"
        case ModelEvaluated():
            return _evaluated(event, tree)
        case RungScored() | ModelDropped():
            return _of_a_race(event, tree)
        case _:
            return _of_a_step(event)


def _of_the_run(event: RunStarted | SettingsChanged | InputsMoved | RunStopped | RunContinued, tree: FamilyTree) -> str:
    match event:
        case RunStarted():
            names = ", ".join(entry.name for entry in event.foundations)
            return f"run {event.run} started, strategy {tree.config.strategy.name}: {names} on {event.base.source}"
        case SettingsChanged():
            changes = ", ".join(f"{key} from {then} to {now}" for key, (then, now) in event.changes.items())
            return f"settings changed: {changes}"
        case InputsMoved():
            paths = [f"{name} is now {path}" for name, path in (event.paths | event.reads).items()]
            if paths:
                return f"models or data moved, with equal content: {', '.join(paths)}"
            return f"the run folder is now {event.root}"
        case RunStopped():
            return f"stopped after generation {event.generation}, {event.reason}: {event.detail}"
        case RunContinued():
            retried = f"; retried: {', '.join(event.retried)}" if event.retried else ""
            return f"the stopped run continues: {event.reason}{retried}"


def _of_a_step(event: ModelMerged | ModelFailed | StepRetried | CheckpointRemade) -> str:
    match event:
        case ModelMerged():
            tokenizer = "" if event.tokenizer in {None, "plain"} else f", {event.tokenizer} tokenizer"
            return f"{event.model}: merged in {duration(event.seconds)} ({size(event.bytes)}{tokenizer})"
        case ModelFailed():
            attempts = "1 attempt" if event.attempts == 1 else f"{event.attempts} attempts"
            return f"{event.model}: failed to {event.step} after {attempts}: {event.reason}"
        case StepRetried():
            smaller = f"; retrying with batch size {event.batch_size}" if event.batch_size else "; retrying"
            return f"{event.model}: attempt {event.attempt} to {event.step} failed: {event.reason}{smaller}"
        case CheckpointRemade():
            return f"{event.model}: merged again in {duration(event.seconds)} ({event.reason})"


def _of_a_race(event: RungScored | ModelDropped, tree: FamilyTree) -> str:
    if isinstance(event, ModelDropped):
        return (
            f"{event.model}: dropped after rung {event.rung}: at most {points(event.high)}, and the best "
            f"{tree.config.strategy.top_k} have at least {points(event.least)}"
        )
    answered = sum(estimate.answered for estimate in event.estimates.values())
    items = sum(estimate.items for estimate in event.estimates.values())
    tasks = ", ".join(f"{task} {100 * estimate.value:.1f}" for task, estimate in event.estimates.items())
    about = f"rung {event.rung}, {answered} of {items} items in {duration(event.seconds)}"
    return f"{event.model}: estimate {model_average(tree.model(event.model))} ({tasks}; {about})"


def _evaluated(event: ModelEvaluated, tree: FamilyTree) -> str:
    model, gain, over = tree.model(event.model), tree.gain(event.model), tree.gain_over_better_parent(event.model)
    tasks = ", ".join(f"{task} {100 * score.value:.1f}" for task, score in event.scores.items())
    gained = f", gain {signed(gain)}, {signed(over)} vs the better parent" if gain is not None else ""
    cached = f"{', '.join(event.reused_tasks)} cached, " if event.reused_tasks else ""
    source = "cached" if event.reused else f"{cached}in {duration(event.seconds)}"
    return f"{event.model}: {model_average(model)}{gained} ({tasks}; {source})"
