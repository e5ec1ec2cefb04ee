"""Events are read from JSON exactly as they were written; anything else is refused."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from evolve.lineage import (
    CheckpointRemade,
    Estimate,
    Event,
    FoundationEntry,
    GenerationPlanned,
    InputsMoved,
    Kinship,
    KinshipMeasured,
    LeftOut,
    ModelDropped,
    ModelEvaluated,
    ModelFailed,
    ModelMerged,
    PlannedMerge,
    Prepared,
    RunContinued,
    RungScored,
    RunStarted,
    RunStopped,
    Score,
    SettingsChanged,
    StepRetried,
    event_adapter,
)

A = FoundationEntry(name="A", source="org/a", revision="0" * 40, path="/m/a", identity="ab", bytes=1)
B = FoundationEntry(
    name="B",
    source="./b",
    revision=None,
    path="../m/b",
    identity="cd",
    bytes=2**40,
    prepared=Prepared(kind="adapter", key="12", parts={"model": "1" * 40, "adapter": None}),
)
MERGES = (
    PlannedMerge(name="model-1-1", parents=("A", "B"), kind="merge", recipe="slerp", decision="first"),
    PlannedMerge(name="model-1-exp", parents=("B", "A"), kind="exploration", recipe="slerp", decision="second"),
)
SCORES = {
    "gsm8k": Score(metric="exact_match,strict-match", value=0.1, stderr=0.02),
    "other": Score(metric="acc,none", value=1 / 3, stderr=None),
}
EVENTS: list[Event] = [
    RunStarted(
        run="demo",
        config={"seed": 0, "merge": {"recipe": None}},
        versions={"evolve": "0.1.0"},
        recipes={"slerp": "merge_method: slerp\n"},
        data={"items.jsonl": "ef"},
        base=A.model_copy(update={"name": "base"}),
        foundations=(A, B),
        root="/runs/demo",
        layers=32,
        differing_settings={"sliding_window": {"base_model": 4096, "A": None}},
    ),
    GenerationPlanned(generation=1, top=("A", "B"), merges=MERGES),
    KinshipMeasured(
        a="A",
        b="B",
        kinship=Kinship(pcc=-0.1, cs=0.1 + 0.2, ed=1e300),
        left_out=(LeftOut(tensor="lm_head.weight", rows=2, share=1e-6),),
    ),
    ModelMerged(
        model="m",
        identity="x",
        checkpoint="models/m",
        recipe="recipes/m.yaml",
        bytes=3,
        seconds=0.1,
        tokenizer="union",
    ),
    ModelEvaluated(model="Modell", scores=SCORES, seconds=12.5, batch_size="auto", reused_tasks=("gsm8k",)),
    RungScored(
        model="model-1-1",
        rung=1,
        share=0.05,
        estimates={"gsm8k": Estimate(metric="acc,none", value=0.1, stderr=0.02, answered=5, items=100)},
        seconds=0.5,
        batch_size=8,
    ),
    ModelDropped(model="model-1-1", rung=1, high=0.2, least=0.25),
    ModelFailed(model="m", step="merge", reason="two\nlines", attempts=2),
    StepRetried(model="m", step="evaluate", reason="out of memory", attempt=1, batch_size=8),
    CheckpointRemade(model="m", reason="missing", identity="x", bytes=3, seconds=0.1),
    SettingsChanged(changes={"device": ("auto", None)}, config={"device": None}),
    InputsMoved(paths={"base_model": "/new/base", "A": "../a"}),
    RunStopped(reason="saturated", generation=3, detail="too similar"),
    RunContinued(reason="the disk was full", retried=("m",)),
]
KINDS = pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type)


def test_every_kind_of_event_has_an_example_here():
    assert [type(event) for event in EVENTS] == list(get_args(Event))


@KINDS
def test_an_event_survives_a_round_trip_through_one_line_of_json(event):
    line = event.model_dump_json()

    assert "\n" not in line
    assert event_adapter.validate_json(line) == event
    assert type(event_adapter.validate_json(line)) is type(event)
    assert event_adapter.validate_python(json.loads(line)).model_dump_json() == line


@KINDS
def test_an_unknown_field_is_refused(event):
    with pytest.raises(ValidationError, match="extra_forbidden"):
        event_adapter.validate_python({**event.model_dump(), "surprise": 1})


@KINDS
def test_every_field_without_a_default_is_required(event):
    for name, field in type(event).model_fields.items():
        if field.is_required():
            with pytest.raises(ValidationError, match="missing"):
                event_adapter.validate_python({k: v for k, v in event.model_dump().items() if k != name})


def test_an_unknown_kind_of_event_is_refused():
    with pytest.raises(ValidationError, match="union_tag_invalid"):
        event_adapter.validate_python({"type": "model_praised", "model": "m"})


def floats(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, float):
        return [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, part in items for found in floats(part, (*path, key))]


PLACES = [(event, path) for event in EVENTS for path in floats(json.loads(event.model_dump_json()))]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize(("event", "path"), PLACES, ids=lambda x: getattr(x, "type", None) or ".".join(map(str, x)))
def test_a_number_that_is_not_finite_is_refused_in_every_field(event, path, number):
    raw = json.loads(event.model_dump_json())
    inner = raw
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = float(number)

    with pytest.raises(ValidationError, match="finite_number"):
        event_adapter.validate_python(raw)
    with pytest.raises(ValidationError, match="finite_number"):
        event_adapter.validate_json(json.dumps(raw))


def test_the_examples_have_every_number_field_of_the_events():
    names = {path[-1] for _, path in PLACES}

    assert names == {"pcc", "cs", "ed", "share", "seconds", "value", "stderr", "influence", "high", "least"}


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        (Score, {"metric": "acc", "value": 0.5, "stderr": -0.1}),
        (Kinship, {"pcc": 0.5, "cs": 0.5, "ed": -0.1}),
        (GenerationPlanned, {"generation": 0, "top": ("A",), "merges": MERGES}),
        (GenerationPlanned, {"generation": 1, "top": ("A",), "merges": ()}),
        (ModelEvaluated, {"model": "m", "scores": {}, "seconds": 1.0, "batch_size": 1}),
        (ModelEvaluated, {"model": "m", "scores": SCORES, "seconds": 1.0, "batch_size": "large"}),
        (ModelMerged, {**EVENTS[3].model_dump(), "tokenizer": "auto"}),
        (Prepared, {"kind": "zip", "key": "1", "parts": {}}),
        (PlannedMerge, {**MERGES[0].model_dump(), "parents": ("A", "B", "C")}),
        (PlannedMerge, {**MERGES[0].model_dump(), "kind": "foundation"}),
        (RunStarted, {**EVENTS[0].model_dump(), "foundations": (A,)}),
        (RunStopped, {"reason": "bored", "generation": 1, "detail": ""}),
        (Score, {"metric": "acc", "value": 1e101, "stderr": None}),
        (Score, {"metric": "acc", "value": 0.5, "stderr": 1e101}),
        (Kinship, {"pcc": 2.0, "cs": 0.5, "ed": 0.1}),
        (LeftOut, {"tensor": "t", "rows": -1, "share": 0.5}),
        (ModelEvaluated, {"model": "m", "scores": SCORES, "seconds": -1.0, "batch_size": 1}),
        (ModelEvaluated, {"model": "m", "scores": SCORES, "seconds": 1e11, "batch_size": 1}),
        (ModelEvaluated, {"model": "m", "scores": SCORES, "seconds": 1.0, "batch_size": 0}),
        (ModelMerged, {**EVENTS[3].model_dump(), "bytes": 10**400}),
        (ModelMerged, {**EVENTS[3].model_dump(), "checkpoint": "/etc"}),
        (ModelMerged, {**EVENTS[3].model_dump(), "checkpoint": "models/other"}),
        (ModelMerged, {**EVENTS[3].model_dump(), "recipe": "recipes/../m.yaml"}),
        (
            ModelMerged,
            {**EVENTS[3].model_dump(), "model": "..", "checkpoint": "models/..", "recipe": "recipes/...yaml"},
        ),
        (RunStarted, {**EVENTS[0].model_dump(), "layers": 10**9}),
        (GenerationPlanned, {"generation": 2, "top": ("A",), "merges": MERGES}),
        (PlannedMerge, {**MERGES[0].model_dump(), "name": "A"}),
        (ModelFailed, {"model": "m", "step": "measure", "reason": "", "attempts": 1}),
    ],
)
def test_an_impossible_record_is_refused(record, fields):
    with pytest.raises(ValidationError):
        record(**fields)


SCHEMA_1 = {
    "run_started": {"root", "layers", "differing_settings"},
    "model_merged": {"tokenizer"},
    "model_evaluated": {"reused_tasks"},
}


@KINDS
def test_an_event_of_schema_1_is_read_without_the_new_fields(event):
    if event.type in {"inputs_moved", "run_continued"}:
        return
    new = SCHEMA_1.get(event.type, set())
    raw = {key: value for key, value in event.model_dump(mode="json").items() if key not in new}
    if event.type == "run_started":
        raw["schema_version"] = 1
        for entry in (raw["base"], *raw["foundations"]):
            del entry["prepared"]

    found = event_adapter.validate_python(raw)

    assert {name: getattr(found, name) for name in new} == {
        name: type(event).model_fields[name].get_default(call_default_factory=True) for name in new
    }


def test_an_infinite_setting_of_a_model_is_kept_as_a_string():
    """Mamba 2 has `time_step_limit: [0.0, Infinity]` in its config.json."""
    raw = {
        **EVENTS[0].model_dump(),
        "differing_settings": {"time_step_limit": {"A": [0.0, float("inf")], "B": float("nan"), "C": [0.0, 1.5]}},
    }

    found = RunStarted.model_validate(raw).differing_settings

    assert found == {"time_step_limit": {"A": [0.0, "inf"], "B": "nan", "C": [0.0, 1.5]}}
    json.dumps(found, allow_nan=False)


NAMES = [
    (EVENTS[0], ("run",)),
    (EVENTS[0], ("base", "name")),
    (EVENTS[0], ("foundations", 0, "name")),
    (EVENTS[1], ("top", 0)),
    (EVENTS[1], ("merges", 0, "name")),
    (EVENTS[1], ("merges", 0, "parents", 1)),
    (EVENTS[2], ("a",)),
    (EVENTS[2], ("b",)),
    *((event, ("model",)) for event in EVENTS if "model" in type(event).model_fields),
    (EVENTS[-1], ("retried", 0)),
]


@pytest.mark.parametrize(
    "name", ["../../../victim", "/etc", "a/b", "", ".", "..", "a..b", "a\x1b[2J", "a\n", "-a", "ü"]
)
@pytest.mark.parametrize(("event", "path"), NAMES, ids=lambda x: getattr(x, "type", None) or ".".join(map(str, x)))
def test_a_name_that_a_configuration_refuses_is_refused_in_every_field(event, path, name):
    raw = json.loads(event.model_dump_json())
    inner = raw
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = name

    with pytest.raises(ValidationError, match="a name has letters"):
        event_adapter.validate_python(raw)


def test_a_name_of_a_moved_model_follows_the_rules():
    with pytest.raises(ValidationError, match="a name has letters"):
        InputsMoved(paths={"../a": "/new"})
