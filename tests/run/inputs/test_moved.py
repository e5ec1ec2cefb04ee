"""A run resumes after its folder, models, data or templates have moved, if their content is the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from drive import Drivers
from fakes import write_family

from runs import Reference, events, outcome

HALF = "step.before_call:14"  # in generation 2
Raw = dict[str, Any]


def _edit(config: Path, how: Callable[[Raw], Any]) -> None:
    raw = yaml.safe_load(config.read_text())
    how(raw)
    config.write_text(yaml.safe_dump(raw, sort_keys=False))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a project folder with a family and a configuration with relative paths."""
    folder = tmp_path / "project"
    write_family(folder / "family")
    return folder


@pytest.mark.parametrize("again", ["run", "resume"])
def test_a_moved_project_resumes(
    again: str, project: Path, tmp_path: Path, drivers: Drivers, reference: Reference
) -> None:
    assert drivers(project / "runs" / "run", project / "family" / "config.yaml", EVOLVE_FAULT=HALF).code == -9
    elsewhere = tmp_path / "another" / "disk" / "project"
    elsewhere.parent.mkdir(parents=True)
    project.rename(elsewhere)
    run = elsewhere / "runs" / "run"
    ended = drivers(run, elsewhere / "family" / "config.yaml" if again == "run" else None)
    assert ended.code == 0, ended.message
    assert outcome(run) == outcome(reference.run)
    (moved,) = events(run, "inputs_moved")
    assert moved["paths"] == {
        "base_model": str(elsewhere / "family" / "base"),
        **{name: str(elsewhere / "family" / name) for name in "ABC"},
    }
    (changed,) = events(run, "settings_changed")
    assert changed["changes"]["base_model"] == [str(project / "family" / "base"), str(elsewhere / "family" / "base")]
    assert str(project) not in (run / "recipes" / "model-1-1.yaml").read_text()


def _finish_after_two_moves(project: Path, tmp_path: Path, drivers: Drivers) -> Path:
    """Move a project, kill its run, move it again and finish the run; return the run folder."""
    second, third = tmp_path / "second", tmp_path / "deep" / "third"
    project.rename(second)
    assert drivers(second / "runs" / "run", EVOLVE_FAULT="step.before_call:4").code == -9
    third.parent.mkdir()
    second.rename(third)
    ended = drivers(third / "runs" / "run")
    assert ended.code == 0, ended.message
    return third / "runs" / "run"


def test_a_project_that_is_moved_twice_resumes(
    project: Path, tmp_path: Path, drivers: Drivers, reference: Reference
) -> None:
    run, config = project / "runs" / "run", project / "family" / "config.yaml"
    assert drivers(run, config, EVOLVE_FAULT="step.before_call:6").code == -9
    run = _finish_after_two_moves(project, tmp_path, drivers)
    assert outcome(run) == outcome(reference.run)


def test_paths_in_the_runs_folder_are_relative_in_the_journal(
    tmp_path: Path, drivers: Drivers, reference: Reference
) -> None:
    config = write_family(tmp_path / "runs" / "family")
    data = tmp_path / "runs" / "data"
    data.mkdir()
    (data / "test.jsonl").write_text("{}\n")
    _edit(config, lambda raw: raw["evaluation"].update(datasets={"alpha": "../data"}))
    run = tmp_path / "runs" / "run"
    assert drivers(run, config, EVOLVE_FAULT=HALF).code == -9
    (started,) = events(run, "run_started")
    assert started["config"]["base_model"] == started["base"]["path"] == "../family/base"
    assert [entry["path"] for entry in started["foundations"]] == ["../family/A", "../family/B", "../family/C"]
    assert started["config"]["evaluation"]["datasets"] == {"alpha": "../data"}
    assert (run / "journal.jsonl").read_text().count(str(tmp_path)) == 1  # the run folder itself
    (tmp_path / "runs").rename(tmp_path / "moved")
    run = tmp_path / "moved" / "run"
    ended = drivers(run)
    assert ended.code == 0, ended.message
    (moved,) = events(run, "inputs_moved")
    assert (moved["paths"], moved["root"]) == ({}, str(run))
    assert not events(run, "settings_changed")
    assert outcome(run)["nodes"] == outcome(reference.run)["nodes"]


def _paths(run: Path) -> dict[str, Path]:
    """Return every path in the recipes and in the configuration of a run."""
    found: dict[str, Path] = {}

    def look(where: str, value: Any) -> None:
        if isinstance(value, dict | list):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                look(f"{where}.{key}", item)
        elif isinstance(value, str) and value.startswith("/"):
            found[where] = Path(value)

    recipes = sorted(run.glob("recipes/*.yaml"))
    assert recipes
    for path in (*recipes, run / "config.yaml"):
        look(path.stem, yaml.safe_load(path.read_text()))
    return found


@pytest.mark.parametrize("again", ["run", "resume"])
@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("inside", [True, False], ids=["models beside the run", "models elsewhere in the project"])
def test_the_recipes_of_a_moved_run_have_the_present_paths(
    *, inside: bool, finished: bool, again: str, project: Path, tmp_path: Path, drivers: Drivers
) -> None:
    runs = project if inside else project / "runs"
    drivers(runs / "run", project / "family" / "config.yaml", **({} if finished else {"EVOLVE_FAULT": HALF}))
    before = _paths(runs / "run")
    project.rename(tmp_path / "moved")
    run = tmp_path / "moved" / (runs / "run").relative_to(project)
    config = tmp_path / "moved" / "family" / "config.yaml" if again == "run" else None
    ended = drivers(run, config)
    assert (ended.code, ended.worked) == (0, not finished), ended.message
    after = _paths(run)
    assert {where: path for where, path in after.items() if where in before} == {
        where: tmp_path / "moved" / path.relative_to(project) for where, path in before.items()
    }
    assert all(path.exists() for path in after.values())
    assert any(path.name == "A" for path in after.values())


def test_a_moved_finished_run_is_restored_once(project: Path, tmp_path: Path, drivers: Drivers) -> None:
    assert drivers(project / "runs" / "run", project / "family" / "config.yaml").code == 0
    project.rename(tmp_path / "moved")
    run = tmp_path / "moved" / "runs" / "run"
    drivers(run)
    files = [path for path in run.rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert drivers(run).code == 0
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_a_copied_run_without_a_model_does_not_name_the_original(
    project: Path, tmp_path: Path, drivers: Drivers
) -> None:
    original, copy = project / "runs" / "run", tmp_path / "copy" / "run"
    assert drivers(original, project / "family" / "config.yaml").code == 0
    shutil.copytree(original, copy)
    shutil.rmtree(copy / "models" / "model-1-1")
    assert drivers(copy).code == 0
    recipes = [path.read_text() for path in copy.glob("recipes/*")]
    assert any(str(copy / "models" / "model-1-1") in recipe for recipe in recipes)
    assert not any(str(original) in recipe for recipe in recipes)


def test_equal_models_at_another_path_are_accepted_and_recorded(
    project: Path, tmp_path: Path, drivers: Drivers, reference: Reference
) -> None:
    run, config = tmp_path / "runs" / "run", project / "family" / "config.yaml"
    assert drivers(run, config, EVOLVE_FAULT=HALF).code == -9
    for name in ("base", "B"):
        shutil.move(project / "family" / name, project / f"other-{name}")
    _edit(config, lambda raw: raw.update(base_model="../other-base"))
    _edit(config, lambda raw: raw["foundation_models"].update(B="../other-B"))
    ended = drivers(run, config)
    assert ended.code == 0, ended.message
    (moved,) = events(run, "inputs_moved")
    assert moved["paths"] == {"base_model": str(project / "other-base"), "B": str(project / "other-B")}
    assert yaml.safe_load((run / "config.yaml").read_text())["base_model"] == str(project / "other-base")
    assert outcome(run) == outcome(reference.run)
    again = drivers(run, config)
    assert (again.code, again.worked) == (0, False)


def test_another_model_at_another_path_is_refused(project: Path, tmp_path: Path, drivers: Drivers) -> None:
    run, config = tmp_path / "runs" / "run", project / "family" / "config.yaml"
    assert drivers(run, config, EVOLVE_FAULT=HALF).code == -9
    before = (run / "journal.jsonl").read_bytes()
    write_family(project / "others", seed=5)
    _edit(config, lambda raw: raw["foundation_models"].update(B="../others/B"))
    ended = drivers(run, config)
    assert ended.code == 2
    assert f"{project}/others/B: the files of B have changed since the run began" in ended.message
    assert (run / "journal.jsonl").read_bytes() == before


def test_the_message_of_a_missing_model_tells_how_to_give_its_new_path(
    project: Path, tmp_path: Path, drivers: Drivers
) -> None:
    run, config = tmp_path / "runs" / "run", project / "family" / "config.yaml"
    assert drivers(run, config, EVOLVE_FAULT=HALF).code == -9
    shutil.move(project / "family" / "B", project / "other-B")
    ended = drivers(run)
    assert ended.code == 2
    assert f"{project}/family/B: the folder of B is missing; restore it, or give its new path as " in ended.message
    assert "foundation_models.B in a configuration for `evolve run`" in ended.message


def test_moved_data_are_accepted_and_changed_data_are_not(
    project: Path, tmp_path: Path, drivers: Drivers, reference: Reference
) -> None:
    run, config = tmp_path / "runs" / "run", project / "family" / "config.yaml"
    (project / "data").mkdir()
    (project / "data" / "test.jsonl").write_text("{}\n")
    _edit(config, lambda raw: raw["evaluation"].update(datasets={"alpha": "../data"}))
    assert drivers(run, config, EVOLVE_FAULT=HALF).code == -9
    shutil.copytree(project / "data", project / "copy")
    shutil.rmtree(project / "data")
    _edit(config, lambda raw: raw["evaluation"].update(datasets={"alpha": "../copy"}))
    (project / "copy" / "test.jsonl").write_text("{} \n")
    ended = drivers(run, config)
    assert ended.code == 2
    assert "alpha/test.jsonl" in ended.message
    (project / "copy" / "test.jsonl").write_text("{}\n")
    ended = drivers(run, config)
    assert ended.code == 0, ended.message
    (changed,) = events(run, "settings_changed")
    assert changed["changes"] == {"evaluation.datasets.alpha": [str(project / "data"), str(project / "copy")]}
    assert outcome(run)["nodes"] == outcome(reference.run)["nodes"]


def test_an_equal_template_at_another_path_is_the_same_recipe(project: Path, tmp_path: Path, drivers: Drivers) -> None:
    run, config = tmp_path / "runs" / "run", project / "family" / "config.yaml"
    shutil.copy(Path(__file__).parents[3] / "recipes" / "slerp.yaml", project / "family" / "own.yaml")
    _edit(config, lambda raw: raw["merge"].update(recipe="./own.yaml"))
    assert drivers(run, config, EVOLVE_FAULT=HALF).code == -9
    shutil.move(project / "family" / "own.yaml", project / "moved.yaml")
    _edit(config, lambda raw: raw["merge"].update(recipe="../moved.yaml"))
    ended = drivers(run, config)
    assert ended.code == 0, ended.message
    assert not events(run, "settings_changed")
    text = (project / "moved.yaml").read_text()
    (project / "moved.yaml").write_text(text.replace("t: 0.5", "t: 0.4"))
    _edit(config, lambda raw: raw["strategy"].update(max_generations=9))
    ended = drivers(run, config)
    assert ended.code == 2
    assert "merge.recipe" in ended.message


def test_a_run_folder_that_is_moved_alone_finds_its_models(
    tmp_path: Path, drivers: Drivers, reference: Reference
) -> None:
    config = write_family(tmp_path / "data" / "family")
    assert drivers(tmp_path / "data" / "run", config, EVOLVE_FAULT=HALF).code == -9
    run = tmp_path / "other" / "place" / "run"
    run.parent.mkdir(parents=True)
    (tmp_path / "data" / "run").rename(run)
    ended = drivers(run)
    assert ended.code == 0, ended.message
    assert outcome(run) == outcome(reference.run)


def test_data_that_move_twice_are_found(
    project: Path, tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    """The models stay where they are; only the data and the run move."""
    own = project / "family" / "config.yaml"
    (project / "data").mkdir()
    (project / "data" / "test.jsonl").write_text("{}\n")
    _edit(own, lambda raw: raw.update(base_model=str(config.parent / "base")))
    _edit(own, lambda raw: raw.update(foundation_models={name: str(config.parent / name) for name in "ABC"}))
    _edit(own, lambda raw: raw["evaluation"].update(datasets={"alpha": "../data"}))
    assert drivers(project / "runs" / "run", own, EVOLVE_FAULT="step.before_call:6").code == -9
    run = _finish_after_two_moves(project, tmp_path, drivers)
    assert outcome(run)["nodes"] == outcome(reference.run)["nodes"]


def test_a_missing_data_folder_is_named_with_its_key(project: Path, tmp_path: Path, drivers: Drivers) -> None:
    run, config = tmp_path / "runs" / "run", project / "family" / "config.yaml"
    (project / "data").mkdir()
    (project / "data" / "test.jsonl").write_text("{}\n")
    _edit(config, lambda raw: raw["evaluation"].update(datasets={"alpha": "../data"}))
    assert drivers(run, config, EVOLVE_FAULT=HALF).code == -9
    shutil.rmtree(project / "data")
    ended = drivers(run)
    assert ended.code == 2
    assert f"evaluation.datasets.alpha = {project / 'data'}: there is no such folder" in ended.message


def test_another_source_is_not_accepted_because_the_recorded_folder_exists(
    project: Path, tmp_path: Path, drivers: Drivers
) -> None:
    run, config = tmp_path / "runs" / "run", project / "family" / "config.yaml"
    assert drivers(run, config, EVOLVE_FAULT=HALF).code == -9
    before = (run / "journal.jsonl").read_bytes()
    _edit(config, lambda raw: raw["foundation_models"].update(A="nobody/other"))
    ended = drivers(run, config, HF_HUB_OFFLINE="1")
    assert ended.code == 2
    assert "nobody/other" in ended.message
    assert (run / "journal.jsonl").read_bytes() == before


def test_a_template_that_differs_only_in_a_comment_is_the_same_recipe(
    project: Path, tmp_path: Path, drivers: Drivers
) -> None:
    run, config = tmp_path / "runs" / "run", project / "family" / "config.yaml"
    template = project / "family" / "own.yaml"
    shutil.copy(Path(__file__).parents[3] / "recipes" / "slerp.yaml", template)
    _edit(config, lambda raw: raw["merge"].update(recipe="./own.yaml"))
    assert drivers(run, config, EVOLVE_FAULT=HALF).code == -9
    template.write_text("# another comment\n" + template.read_text())
    ended = drivers(run, config)
    assert ended.code == 0, ended.message
