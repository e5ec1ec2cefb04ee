"""Races: rungs, drops and estimates in the run folder, and what a kill in the middle of a rung leaves."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from drive import Drivers
from fakes import ITEMS, write_family
from pyarrow import parquet

from evolve.engines.protocols import InspectTasksJob, Report, TaskFacts
from evolve.run.items import read_items
from runs import Reference, calls_begun, events, forget_checksum, tree_without_times

RUNGS = [0.1, 0.3, 1]


def _family(folder: Path, racing: Any, **strategy: Any) -> Path:
    config = write_family(folder)
    raw = yaml.safe_load(config.read_text())
    raw["evaluation"]["racing"] = racing
    raw["strategy"] |= strategy
    config.write_text(yaml.safe_dump(raw, sort_keys=False))
    return config


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _family(tmp_path_factory.mktemp("race"), {"rungs": RUNGS})


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, drivers: Drivers, config: Path) -> Reference:
    folder = tmp_path_factory.mktemp("reference")
    run, tally = folder / "runs" / "run", folder / "tally"
    ended = drivers(run, config, EVOLVE_FAKE_TALLY=tally)
    assert ended.code == 0, ended.message
    return Reference.of(run, tally, ended.passed)


@pytest.fixture(scope="module")
def nodes(reference: Reference) -> dict[str, Any]:
    return {node["id"]: node for node in reference.tree["nodes"]}


def _evaluations(calls: Counter[str]) -> dict[str, int]:
    return {call: count for call, count in calls.items() if call.startswith("evaluate")}


def test_children_race_and_foundations_are_scored_in_full(reference: Reference, nodes: dict[str, Any]) -> None:
    statuses = [node["status"] for node in nodes.values()]
    assert statuses.count("dropped") >= 2
    assert statuses.count("evaluated") > 3
    raced = {event["model"] for event in events(reference.run, "rung_scored")}
    assert raced == {name for name in nodes if name.startswith("model-")}
    for name, node in nodes.items():
        if node["kind"] == "foundation":
            assert (node["status"], node["race"]) == ("evaluated", None)
        elif node["status"] == "dropped":
            assert (node["average"], node["scores"]) == (None, {})
            assert node["race"]["low"] <= node["race"]["average"] <= node["race"]["high"]
            assert name not in reference.tree["graph"]["top"]


def test_a_rung_includes_the_items_of_the_rung_before(tmp_path: Path, drivers: Drivers) -> None:
    config = _family(tmp_path / "family", {"rungs": RUNGS}, max_generations=1)
    run, before = tmp_path / "run", {"alpha": set(), "beta": set()}
    file = run / "evals" / "model-1-1" / "items.parquet"
    rungs = 0
    for kill in range(1, 40):
        assert drivers(run, config, EVOLVE_FAULT="publish.after_rename:1").code == -9
        if not file.exists():
            continue
        found = {task: set(values) for task, values in read_items(file).items()}
        assert all(before[task] <= found[task] for task in found), kill
        rungs += found != before
        before = found
        if all(len(items) == ITEMS for items in found.values()):
            break
    assert rungs == len(RUNGS)


def test_the_full_scores_are_those_of_a_run_without_racing(
    tmp_path: Path, drivers: Drivers, reference: Reference, nodes: dict[str, Any]
) -> None:
    plain = _family(tmp_path / "family", None)
    assert drivers(tmp_path / "plain", plain).code == 0
    full = {node["identity"]: node["scores"] for node in tree_without_times(tmp_path / "plain")["nodes"]}
    same = [node for node in nodes.values() if node["status"] == "evaluated" and node["identity"] in full]
    assert len(same) > 3
    assert all(node["scores"] == full[node["identity"]] for node in same)


def test_a_rung_answers_its_share_of_the_items(reference: Reference) -> None:
    for event in events(reference.run, "rung_scored"):
        for estimate in event["estimates"].values():
            assert estimate["items"] == ITEMS
            assert estimate["answered"] == pytest.approx(event["share"] * ITEMS, abs=6)


@pytest.mark.parametrize(
    "point", ["step.after_call", "publish.after_rename", "store.after_rename", "journal.after_fsync"]
)
def test_a_run_that_is_killed_in_its_rungs_has_the_same_result(
    tmp_path: Path, drivers: Drivers, config: Path, reference: Reference, point: str
) -> None:
    run, tally = tmp_path / "runs" / "run", tmp_path / "tally"
    for _ in range(300):
        ended = drivers(run, config, EVOLVE_FAULT=f"{point}:9", EVOLVE_FAKE_TALLY=tally)
        if ended.code == 0:
            break
        assert ended.code == -9
    reference.check(run)
    if point != "step.after_call":
        assert _evaluations(calls_begun(tally)) == _evaluations(reference.tally)


def test_the_order_of_the_outcomes_does_not_matter(
    tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    for seed in range(3):
        run = tmp_path / str(seed) / "run"
        assert drivers(run, config, capacity=3, seed=seed).code == 0
        assert tree_without_times(run) == reference.tree


def test_a_child_whose_rung_fails_for_good_takes_no_further_part(
    tmp_path: Path, drivers: Drivers, config: Path
) -> None:
    run = tmp_path / "run"
    tally = tmp_path / "count"
    assert drivers(run, config, EVOLVE_FAKE=f"evaluate:model-1-2:refuse:9:{tally}").code == 0
    node = next(node for node in tree_without_times(run)["nodes"] if node["id"] == "model-1-2")
    assert (node["status"], node["average"]) == ("failed", None)


def test_without_the_values_of_a_parent_a_child_is_scored_in_full(
    tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run = tmp_path / "run"
    assert drivers(run, config, EVOLVE_FAULT="publish.before_fsync:4").code == -9  # before the first child
    shutil.rmtree(run / "evals" / "A")
    ended = drivers(run, config)
    assert ended.code == 0, ended.message
    assert "is scored in full and not on a part of the items" in (run / "run.log").read_text()
    raced = {event["model"] for event in events(run, "rung_scored")}
    parents = {node["id"]: node["parents"] for node in tree_without_times(run)["nodes"]}
    assert raced
    assert not any("A" in parents[name] for name in raced)


def test_survivors_of_a_last_rung_below_the_whole_are_estimates_until_the_best_are_scored(
    tmp_path: Path, drivers: Drivers
) -> None:
    config = _family(tmp_path / "family", {"rungs": [0.25]})
    run = tmp_path / "run"
    assert drivers(run, config).code == 0
    tree = tree_without_times(run)
    statuses = {node["id"]: node["status"] for node in tree["nodes"]}
    assert {statuses[name] for name in tree["graph"]["top"]} == {"evaluated"}
    assert "estimated" in statuses.values()
    assert not events(run, "model_dropped")
    kinds = [event["type"] for event in events(run, "rung_scored") + events(run, "model_evaluated")]
    assert kinds.count("model_evaluated") < len(statuses)
    for node in tree["nodes"]:
        if node["status"] == "estimated":
            assert node["average"] == node["race"]["average"]
            assert node["average_stderr"] is None


def test_racing_settings_of_a_run_cannot_be_changed(
    tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    other = _family(tmp_path / "family", {"rungs": [0.2, 1]})
    ended = drivers(reference.run, other)
    assert ended.code != 0
    assert "evaluation.racing.rungs" in ended.message


def test_rungs_are_in_order_and_every_drop_is_below_the_best(reference: Reference) -> None:
    by_model: dict[str, list[int]] = {}
    for event in events(reference.run, "rung_scored"):
        by_model.setdefault(event["model"], []).append(event["rung"])
    assert all(b == a + 1 for rungs in by_model.values() for a, b in pairwise(rungs))
    for event in events(reference.run, "model_dropped"):
        assert event["high"] < event["least"]
        assert event["rung"] == by_model[event["model"]][-1]


def inspect_summed_tasks(job: InspectTasksJob, report: Report) -> dict[str, TaskFacts]:
    reason = "lm-eval aggregates 'acc' of the task 'beta' by perplexity, not by the mean of its items"
    return {
        spec.task: TaskFacts(ITEMS, "multiple_choice", True, False, not_a_mean=reason if spec.task == "beta" else None)
        for spec in job.tasks
    }


def test_racing_is_refused_on_a_metric_that_is_no_mean_over_items(tmp_path: Path) -> None:
    from dataclasses import replace

    from executors import InlineExecutor
    from fakes import FAKE

    from evolve.config import load_config
    from evolve.errors import TaskError
    from evolve.run.observer import Silent
    from evolve.run.session import Session

    engines = replace(FAKE, inspect_tasks=inspect_summed_tasks)
    session = Session(engines, Silent(), executors=InlineExecutor)
    config = load_config(_family(tmp_path / "family", {}))
    with pytest.raises(TaskError) as caught:
        session.run(config, tmp_path / "run")
    assert str(caught.value) == (
        "evaluation.tasks.1.metric = acc,none: evaluation.racing needs means over items, and lm-eval aggregates 'acc' "
        "of the task 'beta' by perplexity, not by the mean of its items; choose another metric, or set "
        "evaluation.racing to null"
    )
    assert not (tmp_path / "run").exists()
    assert session.run(load_config(_family(tmp_path / "other", None, max_generations=1)), tmp_path / "other-run").stop


def _with_first_value(file: Path, value: float) -> None:
    table = parquet.read_table(file)
    values = [value, *table["value"].to_pylist()[1:]]
    place = table.schema.get_field_index("value")
    parquet.write_table(table.set_column(place, table.schema.field(place), pa.array(values, pa.float64())), file)


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b"no table"),
        lambda file: file.unlink(),
        lambda file: _with_first_value(file, math.nan),
        lambda file: _with_first_value(file, 1e300),
    ],
    ids=["garbage", "missing", "nan", "huge"],
)
def test_rungs_in_the_store_without_values_of_their_items_are_scored_again(
    tmp_path: Path, drivers: Drivers, config: Path, reference: Reference, damage: Callable[[Path], Any]
) -> None:
    shutil.copytree(reference.run.parent / ".scores", tmp_path / ".scores")
    damaged = list(tmp_path.glob(".scores/*/items-*/items.parquet"))
    assert damaged
    for file in damaged:
        damage(file)
        forget_checksum(file.parent)
    ended = drivers(tmp_path / "run", config)
    assert ended.code == 0, ended.message
    assert "model-1-1: alpha is scored again" in (tmp_path / "run" / "run.log").read_text()
    found = [(node["id"], node["status"], node["race"]) for node in tree_without_times(tmp_path / "run")["nodes"]]
    assert found == [(node["id"], node["status"], node["race"]) for node in reference.tree["nodes"]]


def test_children_of_a_foundation_with_an_infinite_value_are_scored_in_full(
    tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    shutil.copytree(reference.run.parent / ".scores", tmp_path / ".scores")
    for file in tmp_path.glob(".scores/*/all/items.parquet"):
        _with_first_value(file, math.inf)
        forget_checksum(file.parent)
    ended = drivers(tmp_path / "run", config)
    assert ended.code == 0, ended.message
    assert not events(tmp_path / "run", "rung_scored")
