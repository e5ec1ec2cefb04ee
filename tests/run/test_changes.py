"""Inputs that change during a run stop it, nothing that read them is recorded, and restoring them continues it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from drive import Drivers, Ended
from fakes import write_family, write_model

from runs import calls_begun, events, journal, outcome
from tests.support.recipes import OF_THREE


@dataclass(frozen=True)
class World:
    """A configuration with data and a task folder, and the folder of one run of it."""

    folder: Path

    @classmethod
    def of(cls, folder: Path) -> World:
        world = cls(folder)
        config = write_family(world.family)
        raw = yaml.safe_load(config.read_text())
        world.data.mkdir()
        (world.data / "test.jsonl").write_text('{"question": 1}\n')
        (world.tasks / "alpha").mkdir(parents=True)
        (world.tasks / "alpha" / "alpha.yaml").write_text("task: alpha\n")
        raw["evaluation"] |= {"datasets": {"beta": str(world.data)}, "task_dirs": [str(world.tasks)]}
        config.write_text(yaml.safe_dump(raw))
        return world

    @property
    def family(self) -> Path:
        return self.folder / "family"

    @property
    def config(self) -> Path:
        return self.family / "config.yaml"

    @property
    def data(self) -> Path:
        return self.family / "data"

    @property
    def tasks(self) -> Path:
        return self.family / "tasks"

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "run"

    @property
    def scores(self) -> dict[str, Any]:
        """The value of each score in the store, by its key."""
        records = self.run.parent.glob(".scores/*/*/score.json")
        return {path.parts[-3:-1]: json.loads(path.read_text())["score"] for path in records}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.of(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(session_folder: Path, drivers: Drivers) -> Iterator[World]:
    """Return a world whose run was not disturbed; models and data have the same content in each world."""
    world = World.of(session_folder / "undisturbed")
    assert drivers(world.run, world.config).code == 0
    yield world
    shutil.rmtree(world.folder)


def _check(world: World, undisturbed: World) -> None:
    """Assert that a run has the result of the undisturbed one, apart from checkpoints that were merged again."""
    ours, theirs = outcome(world.run), outcome(undisturbed.run)
    for node in ours["nodes"]:
        node["remade"] = []
    assert ours == theirs | {"nodes": [node | {"remade": []} for node in theirs["nodes"]]}
    assert world.scores == undisturbed.scores


def _stops(ended: Ended, world: World, path: Path, what: str) -> None:
    assert ended.code == 1, ended.message
    assert f"{path} {what}" in ended.message
    assert f"evolve resume {world.run}" in ended.message


CASES = {
    "data of a later score": ("evaluate:B:rewrite", "data/test.jsonl", "has changed"),
    "data whose times are kept": ("evaluate:B:rewrite-keeping-times", "data/test.jsonl", "has changed"),
    "data replaced with its times": ("evaluate:model-2-1:replace", "data/test.jsonl", "has changed"),
    "data deleted": ("evaluate:B:delete", "data/test.jsonl", "is missing"),
    "a new split": ("evaluate:B:add", "data/train.jsonl", "is new"),
    "a task": ("evaluate:C:rewrite", "tasks/alpha/alpha.yaml", "has changed"),
    "a new file of a task": ("evaluate:C:add", "tasks/alpha/words.txt", "is new"),
    "the weights that are scored": ("evaluate:B:rewrite", "B/model.safetensors", "has changed"),
    "weights that are scored later": ("evaluate:A:rewrite", "C/model.safetensors", "has changed"),
    "weights replaced by a merge": ("merge:model-1-2:replace", "A/model.safetensors", "has changed"),
    "the base of a merge": ("merge:model-1-1:rewrite-keeping-times", "base/model.safetensors", "has changed"),
    "the base of a kinship": ("measure:kinship:rewrite", "base/model.safetensors", "has changed"),
    "weights of a kinship": ("measure:A-B:rewrite-keeping-times", "A/model.safetensors", "has changed"),
    "weights after the first kinship": ("merge:model-1-1:rewrite", "C/model.safetensors", "has changed"),
    "a configuration": ("evaluate:A:delete", "A/config.json", "is missing"),
    "a configuration that is read later": ("evaluate:A:delete", "B/config.json", "is missing"),
    "a new chat template": ("evaluate:A:add", "A/chat_template.jinja", "is new"),
    "a new chat template that is read later": ("evaluate:A:add", "B/chat_template.jinja", "is new"),
    "a new tokenizer": ("evaluate:A:add", "A/tokenizer.json", "is new"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_changed_input_stops_the_run(case: str, world: World, undisturbed: World, drivers: Drivers) -> None:
    wish, name, what = CASES[case]
    path = world.family / name
    before = path.read_bytes() if path.exists() else None
    ended = drivers(world.run, world.config, EVOLVE_FAKE=f"{wish}={path}")
    _stops(ended, world, path, what)
    assert ("remove it" if what == "is new" else "restore it") in ended.message
    step, model, _ = wish.split(":")
    is_read_later = "later" in case and "data" not in case
    if step == "evaluate" and not is_read_later:
        assert model not in {event["model"] for event in events(world.run, "model_evaluated")}
        assert not (world.run / "evals" / model).exists()
    if step == "merge" and "after" not in case:
        assert model not in {event["model"] for event in events(world.run, "model_merged")}
        assert not (world.run / "models" / model).exists()
    if step == "measure":
        assert not events(world.run, "kinship_measured")
    assert not events(world.run, "step_retried")
    assert not events(world.run, "model_failed")
    assert world.scores.items() <= undisturbed.scores.items()
    kept = journal(world.run)

    ended = drivers(world.run)
    assert ended.code == 2, ended.message
    assert path.name in ended.message or str(path.parent) in ended.message
    assert journal(world.run) == kept

    if before is None:
        path.unlink()
    else:
        path.write_bytes(before)
    ended = drivers(world.run)
    assert ended.code == 0, ended.message
    _check(world, undisturbed)


@pytest.mark.parametrize("capacity", [1, 3])
def test_a_checkpoint_that_changes_while_it_is_scored_is_merged_again(
    capacity: int, world: World, undisturbed: World, drivers: Drivers
) -> None:
    path = world.run / "models" / "model-1-1" / "model.safetensors"
    wish = f"evaluate:model-1-1:rewrite-keeping-times={path}"
    ended = drivers(world.run, world.config, capacity=capacity, EVOLVE_FAKE=wish)
    _stops(ended, world, path, "has changed")
    assert "which merges the model again" in ended.message
    assert not (world.run / "evals" / "model-1-1").exists()
    assert drivers(world.run).code == 0
    assert [event["model"] for event in events(world.run, "checkpoint_remade")] == ["model-1-1"]
    _check(world, undisturbed)


def test_a_new_file_in_a_checkpoint_has_to_be_removed(world: World, undisturbed: World, drivers: Drivers) -> None:
    path = world.run / "models" / "model-1-1" / "chat_template.jinja"
    ended = drivers(world.run, world.config, EVOLVE_FAKE=f"evaluate:model-1-1:add={path}")
    for _ in range(2):
        _stops(ended, world, path, "is new")
        ended = drivers(world.run)
    path.unlink()
    assert drivers(world.run).code == 0
    assert not events(world.run, "checkpoint_remade")
    _check(world, undisturbed)


@pytest.mark.parametrize("fault", ["refuse", "bug", "memory", "kill", "exit3"])
@pytest.mark.parametrize("step", ["merge", "evaluate"])
def test_a_candidate_is_not_blamed_for_a_changed_input(
    *, fault: str, step: str, world: World, undisturbed: World, drivers: Drivers
) -> None:
    path = world.family / "B" / "model.safetensors" if step == "merge" else world.data / "test.jsonl"
    before = path.read_bytes()
    wish = f"{step}:model-1-1:rewrite={path},{step}:model-1-1:{fault}"
    done = drivers.command("run", world.config, "--run-dir", world.run, EVOLVE_FAKE=wish)
    assert done.returncode == 1, done.stderr
    assert f"{path} has changed" in done.stderr
    assert "Traceback" not in done.stderr
    assert not events(world.run, "step_retried")
    assert not events(world.run, "model_failed")
    path.write_bytes(before)
    assert drivers(world.run).code == 0
    _check(world, undisturbed)


def test_a_failed_kinship_is_explained_by_a_changed_input(world: World, drivers: Drivers) -> None:
    path = world.family / "base" / "model.safetensors"
    wish = f"measure:kinship:rewrite={path},measure:kinship:bug"
    _stops(drivers(world.run, world.config, EVOLVE_FAKE=wish), world, path, "has changed")


@pytest.mark.parametrize("change", ["hardlink", "chmod"])
def test_links_and_permissions_are_no_changes(change: str, world: World, undisturbed: World, drivers: Drivers) -> None:
    wishes = [
        f"evaluate:A:{change}={world.family}/A/model.safetensors",
        f"evaluate:B:{change}={world.data}/test.jsonl",
        f"measure:kinship:{change}={world.family}/C/model.safetensors",
        f"evaluate:model-1-1:{change}={world.run}/models/model-1-1/model.safetensors",
    ]
    ended = drivers(world.run, world.config, EVOLVE_FAKE=",".join(wishes))
    assert ended.code == 0, ended.message
    assert not events(world.run, "checkpoint_remade")
    _check(world, undisturbed)


def test_a_file_that_is_touched_while_it_is_read_stops_the_run(
    world: World, undisturbed: World, drivers: Drivers
) -> None:
    """Something else may have been in it meanwhile; resuming finds the same content."""
    path, tally = world.data / "test.jsonl", world.folder / "tally"
    ended = drivers(world.run, world.config, EVOLVE_FAKE=f"evaluate:B:touch={path}", EVOLVE_FAKE_TALLY=tally)
    _stops(ended, world, path, "has changed")
    assert drivers(world.run, EVOLVE_FAKE_TALLY=tally).code == 0
    assert {work for work, times in calls_begun(tally).items() if times > 1} == {"evaluate B"}
    _check(world, undisturbed)


def test_a_file_that_is_touched_while_nothing_reads_it_is_unchanged(
    world: World, undisturbed: World, drivers: Drivers
) -> None:
    wishes = [
        f"evaluate:A:touch={world.family}/C/model.safetensors",
        f"merge:model-1-1:touch={world.data}/test.jsonl",
        f"measure:A-B:touch={world.tasks}/alpha/alpha.yaml",
    ]
    ended = drivers(world.run, world.config, EVOLVE_FAKE=",".join(wishes))
    assert ended.code == 0, ended.message
    _check(world, undisturbed)


@pytest.mark.parametrize("step", ["evaluate:A", "merge:model-1-1"])
def test_a_model_that_a_recipe_names_is_compared_at_merges(step: str, world: World, drivers: Drivers) -> None:
    third = world.family / "third"
    write_model(third, 77)
    (world.family / "three.yaml").write_text(OF_THREE.format(third=third))
    raw = yaml.safe_load(world.config.read_text())
    world.config.write_text(yaml.safe_dump(raw | {"merge": {"recipe": "./three.yaml", "tokenizer": "base"}}))
    path = third / "model.safetensors"
    before = path.read_bytes()
    _stops(drivers(world.run, world.config, EVOLVE_FAKE=f"{step}:rewrite={path}"), world, path, "has changed")
    assert not events(world.run, "model_merged")
    ended = drivers(world.run)
    assert (ended.code, str(third) in ended.message) == (2, True)
    path.write_bytes(before)
    assert drivers(world.run).code == 0


def test_a_file_that_a_model_argument_names_is_compared_at_evaluations(world: World, drivers: Drivers) -> None:
    path = world.family / "tokenizer" / "tokenizer.json"
    path.parent.mkdir()
    path.write_text("{}")
    raw = yaml.safe_load(world.config.read_text())
    raw["evaluation"]["model_args"] = {"tokenizer": str(path.parent)}
    world.config.write_text(yaml.safe_dump(raw))
    wish = f"evaluate:B:rewrite-keeping-times={path}"
    _stops(drivers(world.run, world.config, EVOLVE_FAKE=wish), world, path, "has changed")
    assert [event["model"] for event in events(world.run, "model_evaluated")] == ["A"]
    path.write_text("{}")
    assert drivers(world.run).code == 0
