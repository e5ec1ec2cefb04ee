from typing import get_args

import pytest
from family_trees import Family

from evolve.lineage import (
    CheckpointRemade,
    Event,
    GenerationPlanned,
    InputsMoved,
    Kinship,
    KinshipMeasured,
    ModelDropped,
    ModelEvaluated,
    ModelFailed,
    ModelMerged,
    PlannedMerge,
    RunContinued,
    RungScored,
    RunStarted,
    RunStopped,
    SettingsChanged,
    StepRetried,
)
from evolve.views import describe_event


def merged(**changed):
    fields = {
        "model": "m",
        "identity": "i",
        "checkpoint": "models/m",
        "recipe": "recipes/m.yaml",
        "bytes": 14_500_000_000,
        "seconds": 60,
    }
    return ModelMerged(**fields | changed)


def retried(**changed):
    return StepRetried(**{"model": "m", "step": "evaluate", "reason": "out of memory", "attempt": 1} | changed)


CONFIG = Family().tree.origin.config
PLANNED = PlannedMerge(name="model-1-1", parents=("A", "B"), kind="merge", recipe="slerp", decision="why")
WORDS = [
    (Family().tree.origin, "run paper started, strategy kinship: MetaMath, Instruct, Open-chat on hub/base"),
    (GenerationPlanned(generation=1, top=("A", "B"), merges=(PLANNED,)), "generation 1: model-1-1 = A × B"),
    (KinshipMeasured(a="A", b="B", kinship=Kinship(pcc=0.25, cs=0, ed=1)), "kinship of A and B: pcc 0.250"),
    (merged(), "m: merged in 1 min 00 s (14.5 GB)"),
    (merged(tokenizer="plain"), "m: merged in 1 min 00 s (14.5 GB)"),
    (merged(tokenizer="union"), "m: merged in 1 min 00 s (14.5 GB, union tokenizer)"),
    (ModelFailed(model="m", step="merge", reason="no", attempts=1), "m: failed to merge after 1 attempt: no"),
    (ModelFailed(model="m", step="evaluate", reason="no", attempts=2), "m: failed to evaluate after 2 attempts: no"),
    (retried(), "m: attempt 1 to evaluate failed: out of memory; retrying"),
    (retried(batch_size=8), "m: attempt 1 to evaluate failed: out of memory; retrying with batch size 8"),
    (
        CheckpointRemade(model="m", reason="was deleted", identity="i", bytes=1, seconds=60),
        "m: merged again in 1 min 00 s (was deleted)",
    ),
    (SettingsChanged(changes={"device": ("auto", "cpu")}, config=CONFIG), "settings changed: device from auto to cpu"),
    (InputsMoved(paths={"A": "/new/a"}), "models or data moved, with equal content: A is now /new/a"),
    (
        RunStopped(reason="budget", generation=2, detail="strategy.max_generations is 2"),
        "stopped after generation 2, budget: strategy.max_generations is 2",
    ),
    (RunContinued(reason="there is room again"), "the stopped run continues: there is room again"),
    (RunContinued(reason="again", retried=("m", "n")), "the stopped run continues: again; retried: m, n"),
]


@pytest.mark.parametrize(("event", "words"), WORDS, ids=lambda part: getattr(part, "type", ""))
def test_an_event_is_described_in_one_line(family, event, words):
    assert describe_event(event, family().tree) == words


def test_every_kind_of_event_is_described():
    in_other_tests = {ModelEvaluated, RungScored, ModelDropped}
    assert {type(event) for event, _ in WORDS} | in_other_tests == set(get_args(Event))
    assert isinstance(WORDS[0][0], RunStarted)


@pytest.mark.parametrize(
    ("reuse", "source"),
    [
        ({}, "in 30 min 00 s"),
        ({"reused": True}, "cached"),
        ({"reused_tasks": ("gsm8k", "winogrande")}, "gsm8k, winogrande cached, in 30 min 00 s"),
    ],
)
def test_scores_are_described_with_their_source(family, reuse, source):
    run = family().with_foundations().planned(1, ("model-1-1", "Open-chat", "MetaMath")).merged("model-1-1")
    run.evaluated("model-1-1", 66.84, **reuse)
    assert describe_event(run.tree.history[-1].event, run.tree) == (
        "model-1-1: 66.84 ±0.69, gain +1.84, +0.56 vs the better parent "
        f"(winogrande 74.8, gsm8k 56.8, truthfulqa_mc2 68.8; {source})"
    )


def test_scores_of_a_foundation_have_no_gain(family):
    run = family().evaluated("MetaMath", 60.0, None)
    assert describe_event(run.tree.history[-1].event, run.tree).startswith("MetaMath: 60.00 (winogrande 68.0,")
