"""What happens in a run, event by event, in words."""

from __future__ import annotations

from evolve.lineage import (
    CheckpointRemade,
    Event,
    FamilyTree,
    GenerationPlanned,
    KinshipMeasured,
    ModelEvaluated,
    ModelFailed,
    ModelMerged,
    RunStarted,
    RunStopped,
    SettingsChanged,
    StepRetried,
)
from evolve.views.numbers import duration, measured, signed, size

__all__ = ["happening"]


def happening(event: Event, tree: FamilyTree) -> str | None:  # noqa: PLR0911 - one sentence for each kind of event
    """One line on an event, given the tree with it; None for what is not worth a line."""
    match event:
        case RunStarted():
            names = ", ".join(entry.name for entry in event.foundations)
            return f"run {event.run} of {tree.config.strategy.name}: {names} on {event.base.source}"
        case GenerationPlanned():
            pairs = ", ".join(f"{m.name} = {m.parents[0]} × {m.parents[1]}" for m in event.merges)
            return f"generation {event.generation}: {pairs}"
        case KinshipMeasured():
            metric = tree.config.strategy.metric
            return f"kinship of {event.a} and {event.b}: {metric} {getattr(event.kinship, metric):.3f}"
        case ModelMerged():
            return f"{event.model}: merged in {duration(event.seconds)} ({size(event.bytes)})"
        case ModelEvaluated():
            return _evaluated(event, tree)
        case ModelFailed():
            return f"{event.model}: failed for good after {event.attempts} attempt(s) of {event.step}: {event.reason}"
        case StepRetried():
            smaller = f", next with batch size {event.batch_size}" if event.batch_size else ""
            return f"{event.model}: attempt {event.attempt} of {event.step} failed: {event.reason}{smaller}"
        case CheckpointRemade():
            return f"{event.model}: made again in {duration(event.seconds)} ({event.reason})"
        case SettingsChanged():
            changes = ", ".join(f"{key} from {then} to {now}" for key, (then, now) in event.changes.items())
            return f"settings changed: {changes}"
        case RunStopped():
            return f"stopped after generation {event.generation}, {event.reason}: {event.detail}"


def _evaluated(event: ModelEvaluated, tree: FamilyTree) -> str:
    model = tree.model(event.model)
    tasks = ", ".join(f"{task} {100 * score.value:.1f}" for task, score in event.scores.items())
    gain = tree.gain(event.model)
    gained = f", gain {signed(gain)}" if gain is not None else ""
    source = "known from before" if event.reused else f"in {duration(event.seconds)}"
    return f"{event.model}: {measured(model.average, model.average_stderr)}{gained} ({tasks}; {source})"
