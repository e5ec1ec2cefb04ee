"""Links in a run folder: nothing is written or deleted through them, and what they name is not touched."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from drive import Drivers

from evolve.errors import RunFolderError
from evolve.run.durable import publish, remove, replace_text
from evolve.run.links import refuse_links
from evolve.run.observer import ProgressFile
from runs import Reference, contents, events

HALF = "step.before_call:14"  # in generation 2


@pytest.fixture
def half(tmp_path: Path, drivers: Drivers, config: Path) -> Path:
    """Return a run that was killed in generation 2."""
    drivers(tmp_path / "runs" / "run", config, EVOLVE_FAULT=HALF)
    return tmp_path / "runs" / "run"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Return a foreign folder."""
    (tmp_path / "victim" / "deep").mkdir(parents=True)
    for name in ("precious.txt", "deep/precious.txt", ".hidden.77.tmp", "requests-foreign", ".x.77.gone"):
        (tmp_path / "victim" / name).write_text(name)
    return tmp_path / "victim"


def _link(path: Path, target: Path) -> None:
    remove(path)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(target)


FOLDERS = ("staging", "recipes", "models/model-1-1", "evals/A", "models/model-1-1/deep", "evals/A/deep")
FILES = (
    *(".lock", "config.yaml", "driver.json", "family_tree.json", "journal.jsonl", "progress.json", "run.log"),
    *("recipes/model-1-1.yaml", "models/model-1-1/config.json", "evals/A/alpha/score.json"),
)


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("name", [*FOLDERS, *FILES])
def test_a_run_folder_with_a_link_is_refused(
    *, finished: bool, name: str, half: Path, victim: Path, tmp_path: Path, drivers: Drivers
) -> None:
    if finished:
        assert drivers(half).code == 0
    if name == "journal.jsonl":
        shutil.copy(half / name, victim / "precious.txt")
    _link(half / name, victim if name in FOLDERS else victim / "precious.txt")
    before = contents(tmp_path)
    ended = drivers(half)
    assert ended.code == 2, ended.message
    assert f"{half / name}: is a link" in ended.message
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "name",
    [
        *("requests-foreign", "merge-model-2-1", "evaluate-model-2-1", "known-model-2-1", "known-A", ".old.77.gone"),
        "requests-deep/inner",
    ],
)
def test_an_entry_of_the_staging_folder_that_is_a_link_is_deleted_and_not_followed(
    name: str, half: Path, victim: Path, drivers: Drivers, reference: Reference
) -> None:
    _link(half / "staging" / name, victim)
    before = contents(victim)
    ended = drivers(half)
    assert ended.code == 0, ended.message
    assert contents(victim) == before
    reference.check(half)


@pytest.mark.parametrize("name", ["models/model-2-1", "evals/model-2-1", "recipes/model-2-1.yaml", "models/.x.77.gone"])
def test_a_link_in_the_place_of_a_model_to_come_is_replaced(
    *, name: str, tmp_path: Path, victim: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run = tmp_path / "runs" / "run"
    drivers(run, config, EVOLVE_FAULT="step.before_call:4")  # before generation 2 is planned
    _link(run / name, victim)
    before = contents(victim)
    ended = drivers(run)
    assert ended.code == 0, ended.message
    assert contents(victim) == before
    reference.check(run)


def test_the_models_and_the_scores_may_be_on_another_disk(
    half: Path, tmp_path: Path, drivers: Drivers, reference: Reference
) -> None:
    for name in ("models", "evals"):
        shutil.move(half / name, tmp_path / f"big-{name}")
        (half / name).symlink_to(tmp_path / f"big-{name}")
    ended = drivers(half)
    assert ended.code == 0, ended.message
    for name in ("models", "evals"):
        assert (half / name).is_symlink()
        (half / name).unlink()
        shutil.move(tmp_path / f"big-{name}", half / name)
    reference.check(half)


@pytest.mark.parametrize(("place", "name"), [("evals", "A"), ("models", "model-1-1")])
@pytest.mark.parametrize("kind", ["folder", "file", "link", "missing", "other run"])
def test_a_linked_folder_must_be_of_this_run(
    *, kind: str, place: str, name: str, half: Path, victim: Path, tmp_path: Path, drivers: Drivers
) -> None:
    """A hostile run may have a foundation of the name that a foreign folder has."""
    target = victim
    if kind == "folder":
        (victim / name).mkdir()
        (victim / name / "precious.txt").touch()
    elif kind == "file":
        (victim / name).touch()
    elif kind == "link":
        (victim / name).symlink_to(victim / "deep")
    elif kind == "missing":
        target = victim / "none"
    else:
        shutil.copytree(half, tmp_path / "other")
        target = tmp_path / "other" / place
    _link(half / place, target)
    before = contents(tmp_path)
    ended = drivers(half)
    assert ended.code == 2, ended.message
    assert f"{half / place}: is a link " in ended.message
    assert "link it to an empty folder" in ended.message
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", [".lock", "driver.json", "run.log", "config.yaml"])
def test_a_new_run_is_not_written_through_a_link(
    name: str, victim: Path, tmp_path: Path, drivers: Drivers, config: Path
) -> None:
    _link(tmp_path / "run" / name, victim / "precious.txt")
    before = contents(tmp_path)
    ended = drivers(tmp_path / "run", config)
    assert ended.code == 2, ended.message
    assert "is a link" in ended.message
    assert contents(tmp_path) == before


def test_a_link_is_refused_while_the_run_is_driven(victim: Path, half: Path) -> None:
    from evolve.run.folder import RunFolder

    _link(half / "staging", victim)
    before = contents(victim)
    for work in (lambda: RunFolder(half).staged("deep"), lambda: RunFolder(half).tidy(finished=True)):
        with pytest.raises(RunFolderError, match="staging: is a link"):
            work()
    assert contents(victim) == before


def test_a_run_folder_may_be_a_link_itself(half: Path, tmp_path: Path, drivers: Drivers, reference: Reference) -> None:
    (tmp_path / "runs" / "alias").symlink_to(half)
    refuse_links(tmp_path / "runs" / "alias", ["A", "model-1-1"])
    ended = drivers(tmp_path / "runs" / "alias")
    assert ended.code == 0, ended.message
    reference.check(half)


def test_temporary_names_that_are_links_are_not_followed(tmp_path: Path, victim: Path) -> None:
    precious, before = victim / "precious.txt", contents(victim)
    _link(tmp_path / f".a.{os.getpid()}.tmp", precious)
    replace_text(tmp_path / "a", "text")
    assert (tmp_path / "a").read_text() == "text"
    _link(tmp_path / f".progress.json.{os.getpid()}.tmp", precious)
    ProgressFile(tmp_path / "progress.json").working("step", "words", 0, 1)
    assert "step" in (tmp_path / "progress.json").read_text()
    _link(tmp_path / f".b.{os.getpid()}.gone", victim)
    (tmp_path / "b").mkdir()
    remove(tmp_path / "b")
    _link(tmp_path / "c", victim)
    (tmp_path / "staged").mkdir()
    publish(tmp_path / "staged", tmp_path / "c")
    assert not (tmp_path / "c").is_symlink()
    assert contents(victim) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c", "progress.json", "victim"]


def test_a_checkpoint_that_is_a_link_during_a_run_is_merged_again(
    half: Path, victim: Path, drivers: Drivers, reference: Reference
) -> None:
    """A link that appears after the start, so that only the step can find it."""
    model = half / "models" / "model-1-1"
    copy = victim / "model-1-1"
    shutil.copytree(model, copy)
    ended = drivers(half, EVOLVE_FAKE=f"merge:*:link={model}>{copy}:1:{victim.parent}/count")
    assert ended.code == 1
    assert "which merges the model again" in ended.message
    ended = drivers(half)
    assert ended.code == 2
    assert f"{model}: is a link" in ended.message
    model.unlink()
    ended = drivers(half)
    assert ended.code == 0, ended.message
    (remade,) = events(half, "checkpoint_remade")
    assert remade["model"] == "model-1-1"
    assert copy.is_dir()
