"""A short run, event by event, that several tests continue."""

from __future__ import annotations

from evolve.lineage import (
    CheckpointRemade,
    Event,
    GenerationPlanned,
    PlannedMerge,
    RunContinued,
    RunStopped,
    SettingsChanged,
    StepRetried,
)

from ._simulation import evaluated, make_config, merged, started

CONFIG = make_config(("A", "B", "C"), top_k=2)
FOUNDED: list[Event] = [started(CONFIG), evaluated("A", 0.5), evaluated("B", 0.75), evaluated("C", 0.25)]


def merge(name: str, first: str, second: str, kind: str = "merge") -> PlannedMerge:
    return PlannedMerge.model_validate(
        {"name": name, "parents": (first, second), "kind": kind, "recipe": "slerp", "decision": "because"}
    )


def generation(*merges: PlannedMerge, number: int = 1, top: tuple[str, ...] = ("B", "A")) -> GenerationPlanned:
    return GenerationPlanned(generation=number, top=top, merges=merges)


PLANNED: list[Event] = [*FOUNDED, generation(merge("model-1-1", "B", "A"), merge("model-1-2", "A", "C"))]
MERGED: list[Event] = [*PLANNED, merged("model-1-1")]
SCORED: list[Event] = [*MERGED, evaluated("model-1-1", 0.875)]

REMADE = CheckpointRemade(model="model-1-1", reason="missing", identity="id-model-1-1", bytes=7, seconds=1.0)
RETRIED = StepRetried(model="model-1-1", step="evaluate", reason="out of memory", attempt=1, batch_size=2)
STOPPED = RunStopped(reason="saturated", generation=1, detail="too similar")
CONTINUED = RunContinued(reason="there is room again", retried=())
CHANGED = SettingsChanged(changes={"device": ("auto", "cpu")}, config=CONFIG.model_dump(mode="json"))
