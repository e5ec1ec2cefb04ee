"""Resuming a run after its settings or inputs have changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from drive import Drivers
from fakes import write_family

from runs import Reference, calls_begun, events, outcome, tree_without_times

HALF = "step.before_call:14"  # in generation 2


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """Write a configuration that the test may change."""
    return write_family(tmp_path / "family")


Edit = Callable[[Callable[[dict[str, Any]], Any]], None]


@pytest.fixture
def edit(family: Path) -> Edit:
    def change(how: Callable[[dict[str, Any]], Any]) -> None:
        raw = yaml.safe_load(family.read_text())
        how(raw)
        family.write_text(yaml.safe_dump(raw, sort_keys=False))

    return change


def _interrupted(drivers: Drivers, run: Path, config: Path) -> dict[str, bytes]:
    assert drivers(run, config, EVOLVE_FAULT=HALF).code == -9
    return _contents(run)


def _contents(run: Path) -> dict[str, bytes]:
    volatile = {"driver.json", "progress.json"}
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name not in volatile}


# ------------------------------------------------------------------------------------------------ changed settings


def test_changes_that_alter_results_are_refused_with_a_table(
    tmp_path: Path, drivers: Drivers, family: Path, edit: Edit
) -> None:
    run = tmp_path / "run"
    before = _interrupted(drivers, run, family)
    edit(lambda raw: raw["strategy"].update(top_k=4, max_generations=2))
    edit(lambda raw: raw.update(seed=7, device="cpu"))
    ended = drivers(run, family)
    assert ended.code == 2
    table = [line.split() for line in ended.message.splitlines()[1:]]
    assert table == [
        ["key", "then", "now"],
        ["seed", "0", "7"],
        ["strategy.top_k", "3", "4"],
        ["strategy.max_generations", "4", "2"],
    ]
    assert _contents(run) == before


def test_other_changes_are_accepted_and_recorded(tmp_path: Path, drivers: Drivers, family: Path, edit: Edit) -> None:
    run = tmp_path / "run"
    _interrupted(drivers, run, family)
    edit(lambda raw: raw.update(device="cpu", attempts=3))
    edit(lambda raw: raw["evaluation"].update(batch_size=4))
    edit(lambda raw: raw["strategy"].update(max_generations=9))
    assert drivers(run, family).code == 0
    (changed,) = events(run, "settings_changed")
    assert changed["changes"] == {
        "strategy.max_generations": [4, 9],
        "evaluation.batch_size": [16, 4],
        "device": ["auto", "cpu"],
        "attempts": [2, 3],
    }
    assert yaml.safe_load((run / "config.yaml").read_text())["attempts"] == 3
    sizes = [event["batch_size"] for event in events(run, "model_evaluated")]
    assert set(sizes) == {16, 4}
    assert sizes == sorted(sizes, reverse=True)
    assert drivers(run, family).worked is False
    assert len(events(run, "settings_changed")) == 1


def test_a_raised_budget_continues_a_run_that_the_budget_had_stopped(
    tmp_path: Path, drivers: Drivers, family: Path, edit: Edit
) -> None:
    run = tmp_path / "run"
    edit(lambda raw: raw["strategy"].update(max_generations=1))
    assert drivers(run, family).message == "budget"
    assert drivers(run).worked is False
    edit(lambda raw: raw["strategy"].update(max_generations=4))
    ended = drivers(run, family)
    assert (ended.message, ended.worked) == ("converged", True)
    edit(lambda raw: raw["strategy"].update(max_generations=8))
    assert drivers(run, family).worked is False
    assert len(events(run, "run_stopped")) == 2
    uninterrupted = tmp_path / "beside" / "run"
    assert drivers(uninterrupted, family).code == 0
    assert outcome(run) == outcome(uninterrupted)


# -------------------------------------------------------------------------------------------------- changed inputs


def test_a_changed_template_is_refused(tmp_path: Path, drivers: Drivers, family: Path, edit: Edit) -> None:
    run, template = tmp_path / "run", family.parent / "own.yaml"
    shutil.copy(Path(__file__).parents[2] / "recipes" / "slerp.yaml", template)
    edit(lambda raw: raw["merge"].update(recipe="./own.yaml"))
    before = _interrupted(drivers, run, family)
    text = template.read_text()
    template.write_text(text.replace("t: 0.5", "t: 0.4"))
    ended = drivers(run, family)
    assert ended.code == 2
    assert "own.yaml: the template has changed" in ended.message
    template.unlink()
    assert drivers(run, family).code == 2
    assert _contents(run) == before
    assert drivers(run).code == 0  # the journal has the template
    assert "t: 0.5" in (run / "recipes" / "model-3-1.yaml").read_text()


@pytest.mark.parametrize("name", ["base", "B"])
@pytest.mark.parametrize("change", ["weights", "config", "new file", "deleted"])
def test_a_changed_model_is_refused(name: str, change: str, tmp_path: Path, drivers: Drivers, family: Path) -> None:
    run, model = tmp_path / "run", family.parent / name
    before = _interrupted(drivers, run, family)
    if change == "weights":
        data = (model / "model.safetensors").read_bytes()
        (model / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif change == "config":
        (model / "config.json").write_text((model / "config.json").read_text() + " ")
    elif change == "new file":
        (model / "tokenizer.json").write_text("{}")
    else:
        shutil.rmtree(model)
    for config in (None, family):
        ended = drivers(run, config)
        assert ended.code == 2, ended.message
        assert str(model) in ended.message
    assert _contents(run) == before


def test_changed_data_are_refused(tmp_path: Path, drivers: Drivers, family: Path, edit: Edit) -> None:
    run, data = tmp_path / "run", family.parent / "data"
    data.mkdir()
    (data / "test.jsonl").write_text("{}\n")
    edit(lambda raw: raw["evaluation"].update(datasets={"alpha": "./data"}))
    before = _interrupted(drivers, run, family)
    for text in ("{} \n", None):
        if text is None:
            (data / "test.jsonl").unlink()
        else:
            (data / "test.jsonl").write_text(text)
        ended = drivers(run)
        assert ended.code == 2
        assert "alpha/test.jsonl" in ended.message
    assert _contents(run) == before
    (data / "test.jsonl").write_text("{}\n")
    assert drivers(run).code == 0


def test_shared_scores_are_still_marked_as_reused_after_a_kill(
    tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run, tally = tmp_path / "run", tmp_path / "tally"
    shutil.copytree(reference.run.parent / ".scores", tmp_path / ".scores")
    for point in ("publish.after_rename:1", "publish.after_rename:2", "publish.before_fsync:5"):
        assert drivers(run, config, EVOLVE_FAULT=point).code == -9
    assert drivers(run, config, EVOLVE_FAKE_TALLY=tally).code == 0
    assert not [work for work in calls_begun(tally) if work.startswith("evaluate")]
    assert all(node["reused"] for node in tree_without_times(run)["nodes"])


# ----------------------------------------------------------------------------------------------- runs that had stopped


def test_a_run_that_was_saturated_continues_when_the_limit_is_removed(
    tmp_path: Path, drivers: Drivers, family: Path, edit: Edit, reference: Reference
) -> None:
    run = tmp_path / "beside" / "run"
    edit(lambda raw: raw["strategy"].update(stop_at_kinship=-1.0))
    assert drivers(run, family).message == "saturated"
    edit(lambda raw: raw["strategy"].update(stop_at_kinship=-0.5))
    ended = drivers(run, family)
    assert (ended.message, ended.worked) == ("saturated", True)  # the limit is higher, and still exceeded
    edit(lambda raw: raw["strategy"].update(stop_at_kinship=None))
    ended = drivers(run, family)
    assert (ended.message, ended.worked) == (reference.tree["graph"]["stop"]["reason"], True)
    assert [event["changes"] for event in events(run, "settings_changed")] == [
        {"strategy.stop_at_kinship": [-1.0, -0.5]},
        {"strategy.stop_at_kinship": [-0.5, None]},
    ]
    edit(lambda raw: raw["strategy"].update(stop_at_kinship=0.5))
    assert drivers(run, family).code == 2


@pytest.mark.parametrize("again", ["run", "resume"])
def test_a_failed_run_tries_its_failed_children_again(
    again: str, tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run = tmp_path / "beside" / "run"
    faults = "merge:model-1-1:refuse,evaluate:model-1-2:refuse,merge:model-1-3:bug"
    assert drivers(run, config, EVOLVE_FAKE=faults).message == "failed"
    ended = drivers(run, config if again == "run" else None)
    assert ended.code == 0, ended.message
    (continued,) = events(run, "run_continued")
    assert continued["retried"] == ["model-1-1", "model-1-2", "model-1-3"]
    nodes = {node["id"]: node for node in tree_without_times(run)["nodes"]}
    assert nodes["model-1-1"]["status"] == "evaluated"
    assert "model-1-1 is refused" in nodes["model-1-1"]["retries"][-1]
    reference.check(run, retries=False)


# ------------------------------------------------------------------------------------------------------ shared scores


def _scored(run: Path) -> dict[str, list[str]]:
    """Return the tasks that a run scored itself, by model."""
    evaluated = events(run, "model_evaluated")
    return {e["model"]: [task for task in e["scores"] if task not in e["reused_tasks"]] for e in evaluated}


def test_only_new_tasks_are_scored(tmp_path: Path, drivers: Drivers, family: Path, edit: Edit) -> None:
    edit(lambda raw: raw["strategy"].update(max_generations=1))
    assert drivers(tmp_path / "first", family).code == 0
    edit(lambda raw: raw["evaluation"].update(tasks=[{"task": "gamma"}, {"task": "beta"}, {"task": "alpha"}]))
    assert drivers(tmp_path / "more", family, EVOLVE_FAULT="publish.after_rename:2").code == -9
    assert drivers(tmp_path / "more", family).code == 0
    scored = _scored(tmp_path / "more")
    assert all(scored[name] == ["gamma"] for name in "ABC")
    folders = {path.name for path in (tmp_path / "more" / "evals" / "A").iterdir()}
    assert folders == {"alpha", "beta", "gamma", "items.parquet"}
    edit(lambda raw: raw["evaluation"].update(tasks=[{"task": "beta", "weight": 3}]))
    tally = tmp_path / "tally"
    assert drivers(tmp_path / "fewer", family, EVOLVE_FAKE_TALLY=tally).code == 0
    assert all(not _scored(tmp_path / "fewer")[name] for name in "ABC")
    assert not any(f"evaluate {name}" in calls_begun(tally) for name in "ABC")


def test_scores_of_other_settings_are_not_shared(tmp_path: Path, drivers: Drivers, family: Path, edit: Edit) -> None:
    edit(lambda raw: raw["strategy"].update(max_generations=1))
    assert drivers(tmp_path / "first", family).code == 0
    edit(lambda raw: raw["evaluation"].update(tasks=[{"task": "alpha", "num_fewshot": 3}, {"task": "beta"}]))
    assert drivers(tmp_path / "second", family).code == 0
    assert all(_scored(tmp_path / "second")[name] == ["alpha"] for name in "ABC")


# ------------------------------------------------------------------------------------------------------ another disk


def test_checkpoints_may_lie_on_another_disk(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    disk = tmp_path_factory.mktemp("disk")
    if disk.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is only one file system for temporary files")
    run = tmp_path / "beside" / "run"
    assert drivers(run, config, EVOLVE_FAULT="journal.after_fsync:2").code == -9
    (run / "models").rmdir()
    (run / "models").symlink_to(disk, target_is_directory=True)
    for fault in ("move.after_file:1", "move.after_fsync:1", "move.after_rename:1"):
        assert drivers(run, config, EVOLVE_FAULT=fault).code == -9
    ended = drivers(run, config)
    assert ended.code == 0, ended.message
    assert tree_without_times(run) == reference.tree
    assert not list(disk.glob(".*"))
