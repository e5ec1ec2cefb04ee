"""One model: the states it can be in, and its average."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace

import pytest
from family_trees import fold

from evolve.config import Config
from evolve.lineage import (
    Model,
    ModelEvaluated,
    Score,
    pair,
)

from ._simulation import make_config, started

FOUNDATION = Model(name="A", generation=0, kind="foundation", parents=(), decision="", status="merged")
CHILD = Model(name="model-1-1", generation=1, kind="merge", parents=("A", "B"), decision="")
SCORES = {"task": Score(metric="acc,none", value=0.5, stderr=None)}


@pytest.mark.parametrize(
    ("model", "change"),
    [
        (FOUNDATION, {"parents": ("B", "C")}),
        (FOUNDATION, {"generation": 1}),
        (CHILD, {"parents": ()}),
        (CHILD, {"parents": ("A",)}),
        (CHILD, {"parents": ("A", "B", "C")}),
        (CHILD, {"parents": ("A", "A")}),
        (CHILD, {"generation": 0}),
        (CHILD, {"status": "failed"}),
        (CHILD, {"status": "failed", "reason": "it broke"}),
        (CHILD, {"failed_step": "merge"}),
        (CHILD, {"reason": "it broke"}),
        (CHILD, {"status": "evaluated"}),
        (CHILD, {"status": "evaluated", "scores": SCORES}),
        (CHILD, {"status": "evaluated", "average": 0.5}),
        (CHILD, {"status": "merged", "scores": SCORES, "average": 0.5}),
        (CHILD, {"status": "failed", "reason": "it broke", "failed_step": "merge", "scores": SCORES, "average": 0.5}),
        (CHILD, {"average_stderr": 0.5}),
        (CHILD, {"status": "evaluated", "scores": SCORES, "average": math.nan}),
        (CHILD, {"status": "evaluated", "scores": SCORES, "average": math.inf}),
        (CHILD, {"status": "evaluated", "scores": SCORES, "average": 0.5, "average_stderr": math.inf}),
    ],
)
def test_a_model_cannot_be_in_an_impossible_state(model, change):
    with pytest.raises(ValueError, match=f"^{model.name}: "):
        replace(model, **change)


def test_a_model_can_be_in_every_possible_state():
    assert replace(CHILD, status="merged").average is None
    assert replace(CHILD, status="failed", reason="it broke", failed_step="merge").reason == "it broke"
    assert replace(CHILD, status="evaluated", scores=SCORES, average=0.5).average == 0.5


def test_records_are_frozen():
    with pytest.raises(FrozenInstanceError):
        CHILD.name = "another"
    with pytest.raises(ValueError, match="frozen"):
        SCORES["task"].value = 1.0


def test_a_pair_is_unordered():
    assert pair("b", "a") == pair("a", "b") == ("a", "b")


def weighted(weights: dict[str, float]) -> Config:
    raw = make_config(("A", "B")).model_dump(mode="json")
    raw["evaluation"]["tasks"] = [{"task": task, "weight": weight} for task, weight in weights.items()]
    return Config.model_validate(raw)


def with_scores(weights: dict[str, float], **scores: tuple[float, float | None]) -> Model:
    found = {task: Score(metric="acc,none", value=value, stderr=error) for task, (value, error) in scores.items()}
    return fold([started(weighted(weights)), ModelEvaluated(model="A", scores=found, seconds=1.0, batch_size=1)]).model(
        "A"
    )


def test_the_average_is_the_mean_over_the_tasks():
    model = with_scores({"x": 1, "y": 1, "z": 1}, x=(0.1, 0.03), y=(0.2, 0.04), z=(0.6, 0.12))

    assert model.average == pytest.approx(0.3)
    assert model.average_stderr == pytest.approx(0.13 / 3)


def test_the_average_is_weighted_and_so_is_its_standard_error():
    model = with_scores({"x": 3, "y": 1}, x=(0.4, 0.1), y=(0.8, 0.4))

    assert model.average == pytest.approx(0.5)
    assert model.average_stderr == pytest.approx(math.hypot(0.3, 0.4) / 4)


def test_a_lower_is_better_task_has_a_negative_weight():
    raw = weighted({"x": 3, "y": 1}).model_dump(mode="json")
    raw["evaluation"]["tasks"][1]["higher_is_better"] = False
    scores = {
        "x": Score(metric="acc,none", value=0.4, stderr=0.1),
        "y": Score(metric="loss,none", value=0.8, stderr=0.4),
    }
    event = ModelEvaluated(model="A", scores=scores, seconds=1.0, batch_size=1)

    model = fold([started(Config.model_validate(raw)), event]).model("A")

    assert model.average == pytest.approx((3 * 0.4 - 0.8) / 4)
    assert model.average_stderr == pytest.approx(math.hypot(0.3, 0.4) / 4)


def test_the_average_does_not_depend_on_the_order_of_the_tasks():
    values = {"a": (0.1, 0.01), "b": (0.2, 0.02), "c": (0.3, 0.07), "d": (1e-9, 0.0)}
    weights = {"a": 0.3, "b": 0.7, "c": 1.1, "d": 0.9}
    backwards = dict(reversed(values.items()))

    one, other = with_scores(weights, **values), with_scores(weights, **backwards)

    assert (one.average, one.average_stderr) == (other.average, other.average_stderr)


def test_one_missing_standard_error_leaves_the_average_without_one():
    model = with_scores({"x": 1, "y": 1}, x=(0.4, None), y=(0.8, 0.4))

    assert model.average == pytest.approx(0.6)
    assert model.average_stderr is None


@pytest.mark.parametrize("scores", [{"x": (0.5, None)}, {"x": (0.5, None), "y": (0.5, None), "z": (0.5, None)}])
def test_scores_of_tasks_that_are_not_configured_are_refused(scores):
    with pytest.raises(ValueError, match=r"A: has scores of x.* instead of x, y"):
        with_scores({"x": 1, "y": 1}, **scores)
