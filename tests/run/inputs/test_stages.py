"""The stages before the first event: each file is read once, and `check` rehearses the recipes of the run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from executors import InlineExecutor
from fakes import FAKE, write_family

from evolve.config import load_config
from evolve.engines import merging
from evolve.engines.checkpoints import hash_file
from evolve.engines.protocols import FilterMatch, PlanMergesJob, Report
from evolve.errors import ModelError
from evolve.run import hashes
from evolve.run.inputs import Fetch, changes
from evolve.run.observer import Silent
from evolve.run.session import Session
from evolve.run.steps import RunContext
from evolve.run.steps.checkpoint import CheckpointWork


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_family(tmp_path / "family")


def test_a_check_and_a_run_read_each_file_once(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Counter[str] = Counter()

    def counting(path: Path, advance: object) -> str:
        read[str(path)] += 1
        return hash_file(path)

    monkeypatch.setattr(hashes, "hash_file", counting)
    monkeypatch.setattr(hashes, "_SETTLED_NS", 0)
    monkeypatch.setenv("EVOLVE_CACHE_DIR", str(tmp_path / "cache"))
    settings = load_config(config)
    session = Session(FAKE, Silent(), executors=InlineExecutor)
    session.check(settings, tmp_path / "run", Fetch())
    foundations = {str(path) for name in ("base", "A", "B", "C") for path in (config.parent / name).iterdir()}
    assert set(read) == foundations
    session.run(settings, tmp_path / "run")
    session.resume(tmp_path / "run")
    assert set(read) == foundations  # a child's hashes come from its verification
    assert max(read.values()) == 1


def _tokens(folder: Path, *tokens: str) -> None:
    vocabulary = {token: number for number, token in enumerate(tokens)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": []}))


@pytest.mark.parametrize(
    ("base", "a", "setting", "expected"),
    [
        ("xyz", "xy", "auto", False),  # only the base differs, and SLERP does not use it
        ("xyz", "xy", "base", True),
        ("xy", "xyz", "auto", True),
        ("xy", "xy", "auto", False),
        ("xyz", "xyz", "union", True),
    ],
)
def test_the_check_rehearses_the_recipes_of_the_run(
    *, base: str, a: str, setting: str, expected: bool, config: Path, tmp_path: Path
) -> None:
    _tokens(config.parent / "base", *base)
    _tokens(config.parent / "A", *a)
    for name in ("B", "C"):
        _tokens(config.parent / name, *"xy")
    rehearsed: list[Mapping[str, tuple[str, ...]]] = []

    def plan_merges(job: PlanMergesJob, report: Report) -> Mapping[str, tuple[FilterMatch, ...]]:
        rehearsed.append(job.recipes)
        return dict.fromkeys(job.recipes, ())

    settings = load_config(config, [f"merge.tokenizer={setting}", "strategy.max_generations=1"])
    session = Session(replace(FAKE, plan_merges=plan_merges), Silent(), executors=InlineExecutor)
    session.run(settings, tmp_path / "run")
    (recipes,) = rehearsed
    known = {_described(text) for text in recipes["slerp"]}
    merged = {_described(path.read_text()) for path in (tmp_path / "run" / "recipes").iterdir()}
    assert merged <= known
    assert len(merged) == 3
    of_a = [has_tokenizer for parents, has_tokenizer in merged if str(config.parent / "A") in parents]
    assert of_a == [expected] * 2


def _described(recipe: str) -> tuple[tuple[str, ...], bool]:
    """Return the parents of a recipe in order, and whether it has a tokenizer entry."""
    content = yaml.safe_load(recipe)
    parents = tuple(entry["model"]["model"]["path"] for entry in content["models"])
    return parents, "tokenizer" in content


def test_the_recipe_of_a_merged_child_is_restored_without_files_of_its_parents(config: Path, tmp_path: Path) -> None:
    for name in ("base", "B", "C"):
        _tokens(config.parent / name, *"xy")
    _tokens(config.parent / "A", *"xyz")
    run = tmp_path / "run"
    session = Session(FAKE, Silent(), executors=InlineExecutor)
    session.run(load_config(config, ["merge.tokenizer=auto"]), run)
    before = {path.name: path.read_text() for path in (run / "recipes").iterdir()}
    assert any("tokenizer" in text for text in before.values())
    for name in ("base", "A", "B", "C"):
        (config.parent / name / "tokenizer.json").unlink()
    for path in (run / "recipes").iterdir():
        path.unlink()
    assert session.resume(run).worked is False
    assert {path.name: path.read_text() for path in (run / "recipes").iterdir()} == before


def test_all_missing_models_are_reported(config: Path, tmp_path: Path) -> None:
    raw = yaml.safe_load(config.read_text())
    raw["foundation_models"] |= {"A": "./nowhere", "C": "./neither"}
    config.write_text(yaml.safe_dump(raw))
    session = Session(FAKE, Silent(), executors=InlineExecutor)
    with pytest.raises(ModelError) as raised:
        session.check(load_config(config), tmp_path / "run", Fetch())
    lines = str(raised.value).splitlines()
    assert [line.partition(" = ")[0] for line in lines] == ["foundation_models.A", "foundation_models.C"]
    assert all("there is no such folder" in line for line in lines)


def test_a_template_of_another_version_of_evolve_is_replaced_by_the_recorded_one(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, notes = tmp_path / "run", []

    class Noting(Silent):
        def note(self, words: str) -> None:
            notes.append(words)

    session = Session(FAKE, Noting(), executors=InlineExecutor)
    session.run(load_config(config, ["strategy.max_generations=1"]), run)
    notes.clear()
    text = merging.load_template("slerp").text.replace("t: 0.5", "t: 0.4")
    monkeypatch.setattr(changes, "load_template", lambda name: merging.parse_template(name, text))
    assert session.run(load_config(config, ["strategy.max_generations=2"]), run).worked
    assert "t: 0.5" in (run / "recipes" / "model-2-1.yaml").read_text()
    assert notes == ["recipe slerp differs in this version of evolve; the run keeps the recorded one"]


def test_the_tokenizer_of_a_child_of_schema_1_follows_from_its_identity(config: Path, tmp_path: Path) -> None:
    """Its journal does not record the tokenizer, and today's choice may be another one."""
    for name in ("base", "B", "C"):
        _tokens(config.parent / name, *"xy")
    _tokens(config.parent / "A", *"xyz")
    session = Session(FAKE, Silent(), executors=InlineExecutor)
    finished = session.run(load_config(config, ["merge.tokenizer=auto"]), tmp_path / "run")
    children = {model.name: model for model in finished.tree.models if model.parents}
    assert {model.tokenizer for model in children.values()} == {"plain", "union"}
    for name in ("base", "B", "C"):
        _tokens(config.parent / name, *"xyz")
    context = RunContext(finished.folder, finished.tree, FAKE)
    for model in children.values():
        unrecorded = CheckpointWork(context, replace(model, tokenizer=None))
        assert unrecorded.child == CheckpointWork(context, model).child


def test_a_changed_limit_that_did_not_stop_the_run_is_reported(config: Path, tmp_path: Path) -> None:
    session = Session(FAKE, Silent(), executors=InlineExecutor)
    assert session.run(load_config(config), tmp_path / "run").stop.reason == "converged"
    again = session.run(load_config(config, ["strategy.max_generations=9"]), tmp_path / "run")
    assert (again.worked, again.ignored) == (False, ("strategy.max_generations",))
