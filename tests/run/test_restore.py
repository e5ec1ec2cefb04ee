"""Deleted or damaged files are restored: from the journal, or for checkpoints from recipes and parents."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drive import Drivers

from runs import Reference, calls_begun, events, files, journal, tree_without_times

HALF = "step.before_call:14"  # in generation 2


def _delete(run: Path, name: str) -> None:
    path = run / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        ["config.yaml"],
        ["family_tree.json"],
        ["recipes"],
        ["staging"],
        ["run.log"],
        ["config.yaml", "family_tree.json", "recipes", "staging", ".lock", "run.log"],
    ],
)
def test_deleted_files_are_rebuilt_from_the_journal(
    *, names: list[str], finished: bool, tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run = tmp_path / "run"
    drivers(run, config, **({} if finished else {"EVOLVE_FAULT": HALF}))
    for name in names:
        _delete(run, name)
    ended = drivers(run)
    assert (ended.code, ended.worked) == (0, not finished), ended.message
    if finished:
        assert "staging" in names or not list((run / "staging").iterdir())
        (run / "staging").mkdir(exist_ok=True)
        (run / ".lock").touch()
        (run / "run.log").touch()
    reference.check(run)
    for path in reference.run.glob("recipes/*"):
        theirs, ours = path.read_text(), (run / "recipes" / path.name).read_text()
        assert ours == theirs.replace(str(reference.run), str(run))


def test_a_finished_merge_is_kept_although_its_recipe_was_deleted(
    tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run, tally = tmp_path / "run", tmp_path / "tally"
    drivers(run, config, EVOLVE_FAULT="publish.after_rename:10")
    (name,) = [path.name for path in run.glob("models/*")]
    shutil.rmtree(run / "recipes")
    assert drivers(run, EVOLVE_FAKE_TALLY=tally).code == 0
    assert f"merge {name}" not in calls_begun(tally)
    tally.unlink()
    reference.check(run)


def _truncate(run: Path, name: str) -> None:
    weights = run / "models" / name / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def _flip_bit(run: Path, name: str) -> None:
    weights = run / "models" / name / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


DAMAGES: dict[str, Callable[[Path, str], Any]] = {
    "deleted": lambda run, name: shutil.rmtree(run / "models" / name),
    "file missing": lambda run, name: (run / "models" / name / "config.json").unlink(),
    "truncated": _truncate,
    "bit flipped": _flip_bit,
    "no manifest": lambda run, name: (run / "models" / name / "evolve.json").unlink(),
}


@pytest.mark.parametrize("capacity", [1, 3])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_merged_again_if_needed(
    *, damage: str, capacity: int, tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run, tally = tmp_path / "run", tmp_path / "tally"
    drivers(run, config, EVOLVE_FAULT=HALF)
    DAMAGES[damage](run, "model-1-1")
    ended = drivers(run, capacity=capacity, EVOLVE_FAKE_TALLY=tally)
    assert ended.code == 0, ended.message
    assert calls_begun(tally)["merge model-1-1"] == 1
    tally.unlink()
    ours = {node["id"]: node for node in tree_without_times(run)["nodes"]}
    for theirs in reference.tree["nodes"]:
        remade = ours[theirs["id"]].pop("remade")
        assert len(remade) == (theirs["id"] == "model-1-1")
        assert ours[theirs["id"]] == {key: value for key, value in theirs.items() if key != "remade"}
    assert files(run) == reference.files
    data = [(path / "models/model-1-1/model.safetensors").read_bytes() for path in (run, reference.run)]
    assert data[0] == data[1]


def test_a_parent_of_several_children_is_merged_again_once(
    tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run, tally = tmp_path / "run", tmp_path / "tally"
    planned = [event["type"] for event in journal(reference.run)].index("generation_planned", 10) + 1
    drivers(run, config, EVOLVE_FAULT=f"journal.after_fsync:{planned}")
    shutil.rmtree(run / "models" / "model-1-1")
    ended = drivers(run, capacity=4, EVOLVE_FAKE_TALLY=tally)
    assert ended.code == 0, ended.message
    assert calls_begun(tally)["merge model-1-1"] == 1
    assert len(events(run, "checkpoint_remade")) == 1


@pytest.mark.parametrize("damage", ["file missing", "truncated", "bit flipped", "no manifest"])
def test_a_damaged_checkpoint_without_an_event_is_merged_again(
    damage: str, tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run, tally = tmp_path / "run", tmp_path / "tally"
    drivers(run, config, EVOLVE_FAULT="publish.after_rename:10")
    (name,) = [path.name for path in run.glob("models/*")]
    DAMAGES[damage](run, name)
    assert drivers(run, EVOLVE_FAKE_TALLY=tally).code == 0
    assert calls_begun(tally)[f"merge {name}"] == 1
    tally.unlink()
    reference.check(run)


def test_ancestors_are_merged_again_only_if_needed(
    tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run, tally = tmp_path / "run", tmp_path / "tally"
    drivers(run, config, EVOLVE_FAULT="step.before_call:23")  # in generation 3, whose parents are of generation 2
    shutil.rmtree(run / "models")
    shutil.rmtree(run / "recipes")
    ended = drivers(run, EVOLVE_FAKE_TALLY=tally)
    assert ended.code == 0, ended.message
    again = {event["model"] for event in events(run, "checkpoint_remade")}
    assert {"model-1-1", "model-2-1"} <= again
    assert "model-1-2" not in again  # not a parent
    assert max(calls_begun(tally).values()) == 1
    ours = tree_without_times(run)
    for node in ours["nodes"]:
        assert bool(node["remade"]) == (node["id"] in again)
        node["remade"] = []
    assert ours == reference.tree
    recipes = {path.name for path in run.glob("recipes/*")}
    assert {f"{name}.yaml" for name in again} <= recipes


def test_a_missing_checkpoint_that_is_not_needed_is_ignored(tmp_path: Path, drivers: Drivers, config: Path) -> None:
    run = tmp_path / "run"
    drivers(run, config, EVOLVE_FAULT="step.before_call:23")
    shutil.rmtree(run / "models" / "model-1-2")
    assert drivers(run).code == 0
    assert not events(run, "checkpoint_remade")
