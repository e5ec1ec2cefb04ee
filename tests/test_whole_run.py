"""A complete `evolve run` on real engines, compared with an independent computation of all its decisions."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import yaml

from evolve.nursery import Family
from runs import tree_without_times
from tests.conftest import TASKS, Evolve, write_config

METRIC = "pcc"
K = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, family: Family, evolve: Evolve) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    config = write_config(folder / "whole.yaml", family)
    done = evolve("run", config, "--run-dir", folder / "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "evolve tree" in done.stdout
    return folder / "run"


@pytest.fixture(scope="module")
def tree(run: Path) -> nx.DiGraph:
    with (run / "family_tree.json").open() as file:
        return nx.node_link_graph(json.load(file), edges="edges")


def _deltas(folder: Path, base: Path) -> np.ndarray:
    ours, theirs = _tensors(folder), _tensors(base)
    return np.concatenate([(ours[name] - theirs[name]).ravel() for name in sorted(theirs)])


def _tensors(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.torch import load_file as load_torch

    tensors = load_torch(folder / "model.safetensors")
    return {name: tensor.double().numpy() for name, tensor in tensors.items()}


def _key(tree: nx.DiGraph, name: str) -> tuple[float, int, str]:
    node = tree.nodes[name]
    return (-node["average"], node["generation"], name)


def _top(tree: nx.DiGraph, before: int) -> list[str]:
    known = [name for name, node in tree.nodes.items() if node["generation"] < before]
    return sorted(known, key=lambda name: _key(tree, name))[:K]


def test_every_model_is_scored_on_all_tasks_with_standard_errors(tree: nx.DiGraph) -> None:
    for node in tree.nodes.values():
        assert node["status"] == "evaluated"
        assert set(node["scores"]) == {"winogrande", "gsm8k", "truthfulqa_mc2"}
        assert all(score["stderr"] is not None for score in node["scores"].values())
        assert node["average"] == pytest.approx(np.mean([score["value"] for score in node["scores"].values()]))
        errors = [score["stderr"] for score in node["scores"].values()]
        assert node["average_stderr"] == pytest.approx(math.sqrt(sum(e * e for e in errors)) / 3)


def test_gain_is_the_average_minus_the_mean_of_the_parents(tree: nx.DiGraph) -> None:
    for name, node in tree.nodes.items():
        assert sorted(tree.predecessors(name)) == sorted(node["parents"])
        if node["kind"] == "foundation":
            assert node["gain"] is None
        else:
            parents = [tree.nodes[parent]["average"] for parent in node["parents"]]
            assert node["gain"] == pytest.approx(node["average"] - sum(parents) / 2)


def test_kinships_are_those_of_the_weights(tree: nx.DiGraph, run: Path, family: Family) -> None:
    folders = {name: run / node["checkpoint"] for name, node in tree.nodes.items()}
    measured = {(k["a"], k["b"]): k for k in tree.graph["kinships"]}
    assert measured
    for (a, b), kinship in measured.items():
        x, y = _deltas(folders[a], family.base), _deltas(folders[b], family.base)
        assert kinship["pcc"] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-6)
        assert kinship["cs"] == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-6)
        assert kinship["ed"] == pytest.approx(np.linalg.norm(x - y), rel=1e-6)
    for node in tree.nodes.values():
        if node["parents"]:
            expected = measured[tuple(sorted(node["parents"]))]
            assert node["kinship"] == {metric: expected[metric] for metric in ("pcc", "cs", "ed")}


def test_the_children_are_those_of_the_algorithm(tree: nx.DiGraph) -> None:
    kinships = {frozenset((k["a"], k["b"])): k[METRIC] for k in tree.graph["kinships"]}
    merged: set[frozenset[str]] = set()
    last = max(node["generation"] for node in tree.nodes.values())
    for generation in range(1, last + 1):
        children = {n: v for n, v in tree.nodes.items() if v["generation"] == generation}
        pairs = {frozenset(v["parents"]) for v in children.values() if v["kind"] == "merge"}
        pool = [n for n, v in tree.nodes.items() if v["generation"] < generation]
        top = pool if generation == 1 else _top(tree, generation)
        fresh = {frozenset(p) for p in combinations(top, 2)} - merged
        assert pairs == fresh
        explored = [frozenset(v["parents"]) for v in children.values() if v["kind"] == "exploration"]
        best = min(pool, key=lambda name: _key(tree, name))
        allowed = [n for n in pool if n != best and frozenset((n, best)) not in merged | pairs]
        if generation == 1 or not allowed:
            assert not explored
        else:
            partner = min(allowed, key=lambda n: (kinships[frozenset((n, best))], tree.nodes[n]["generation"], n))
            assert explored == [frozenset((best, partner))]
        for node in children.values():
            first, second = node["parents"]
            assert _key(tree, first) < _key(tree, second)
        merged |= pairs | set(explored)


def test_the_reason_of_the_stop_is_right(tree: nx.DiGraph) -> None:
    last = max(node["generation"] for node in tree.nodes.values())
    stop = tree.graph["stop"]
    assert stop["generation"] == last
    unchanged = set(_top(tree, last + 1)) == set(_top(tree, last))
    assert stop["reason"] == ("converged" if unchanged else "budget")
    assert tree.graph["top"] == _top(tree, last + 1)
    assert tree.graph["best"] == tree.graph["top"][0]


def test_the_run_folder_has_all_files(tree: nx.DiGraph, run: Path) -> None:
    for name, node in tree.nodes.items():
        assert {path.name for path in (run / "evals" / name).iterdir()} == {*node["scores"], "items.parquet"}
        for task in node["scores"]:
            files = {path.name for path in (run / "evals" / name / task).iterdir()}
            assert files == {
                *("score.json", "results.json", f"samples_{task}.jsonl", "items.parquet", "answers.parquet")
            }
        if node["kind"] != "foundation":
            assert (run / node["recipe"]).is_file()
            assert (run / node["checkpoint"] / "model.safetensors").is_file()
            assert node["bytes"] == sum(
                p.stat().st_size for p in (run / node["checkpoint"]).iterdir() if p.name != "evolve.json"
            )
    assert not any(path for path in (run / "staging").iterdir())


def test_prompts_and_token_ids_of_each_task_are_kept_once_for_all_models(run: Path) -> None:
    folders = list((run.parent / ".prompts").iterdir())
    assert len(folders) == len(TASKS)
    for folder in folders:
        assert sorted(path.name.partition("-")[0] for path in folder.iterdir()) == ["prompts", "tokens"]
    assert not list(run.rglob("prompts-*"))


def test_mergekit_reads_every_recipe(tree: nx.DiGraph, run: Path) -> None:
    from mergekit.config import MergeConfiguration

    children = {name: node for name, node in tree.nodes.items() if node["kind"] != "foundation"}
    assert {path.stem for path in (run / "recipes").iterdir()} == set(children)
    for node in children.values():
        read = MergeConfiguration.model_validate(yaml.safe_load((run / node["recipe"]).read_text()))
        first, second = (str(run / tree.nodes[parent]["checkpoint"]) for parent in node["parents"])
        assert read.base_model.model.path == first
        assert {model.model.path for model in read.referenced_models()} == {first, second}


def test_mergekit_yaml_makes_the_same_child_from_its_recipe(tree: nx.DiGraph, run: Path, tmp_path: Path) -> None:
    youngest = max(tree.nodes, key=lambda name: (tree.nodes[name]["generation"], name))
    recipe, child = (run / tree.nodes[youngest][key] for key in ("recipe", "checkpoint"))
    command = [Path(sys.executable).with_name("mergekit-yaml"), recipe, tmp_path / "out"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (child / "model.safetensors").read_bytes()


def test_other_paths_and_another_hash_seed_give_the_same_result(
    run: Path, family: Family, evolve: Evolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "4711" if os.environ.get("PYTHONHASHSEED") != "4711" else "0")
    config = write_config(tmp_path / "whole.yaml", _copied(family, tmp_path / "another-family"))
    done = evolve("run", config, "--run-dir", tmp_path / "another-run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert _without_paths(tmp_path / "another-run") == _without_paths(run)
    children = sorted(path.name for path in (run / "models").iterdir())
    for child in children:
        ours, theirs = (
            (folder / "models" / child / "model.safetensors").read_bytes() for folder in (run, tmp_path / "another-run")
        )
        assert ours == theirs, child
    known = {path.name for path in (tmp_path / ".scores").glob("[!.]*")}
    assert len(known) == len(TASKS) * (len(children) + len(family.specialists))
    assert known <= {path.name for path in (run.parent / ".scores").glob("[!.]*")}


def _copied(family: Family, place: Path) -> Family:
    """Copy a family to another folder."""
    shutil.copytree(family.directory, place)

    def moved(paths: dict[str, Path]) -> dict[str, Path]:
        return {name: place / path.relative_to(family.directory) for name, path in paths.items()}

    return replace(
        family,
        directory=place,
        base=place / family.base.relative_to(family.directory),
        specialists=moved(family.specialists),
        datasets=moved(family.datasets),
    )


def _without_paths(run: Path) -> dict[str, Any]:
    """Return the family tree without times, paths and sizes, since the model cards contain paths."""
    data = tree_without_times(run)
    for node in data["nodes"]:
        assert not node["reused"]
        del node["checkpoint"], node["bytes"]
    return data


def test_a_finished_run_is_not_run_again(run: Path, served_evolve: Evolve) -> None:
    before = (run / "journal.jsonl").read_bytes()
    again = served_evolve("resume", run)
    assert again.returncode == 0
    assert "has finished already" in again.stdout
    assert (run / "journal.jsonl").read_bytes() == before


def test_scores_are_shared_with_a_run_beside_it(run: Path, family: Family, served_evolve: Evolve) -> None:
    strategy = {"name": "greedy", "top_k": 3, "max_generations": 1, "stop_at_kinship": None}
    config = write_config(run.parent / "greedy.yaml", family, strategy=strategy)
    done = served_evolve("run", config, "--run-dir", run.parent / "greedy")
    assert done.returncode == 0, done.stderr
    data: dict[str, Any] = json.loads(served_evolve("tree", run.parent / "greedy", "--json").stdout)
    assert all(node["reused"] for node in data["nodes"])


def test_check_ends_with_the_command_to_run(run: Path, served_evolve: Evolve) -> None:
    done = served_evolve("check", run.parent / "whole.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("Ready: evolve run ")


def test_kinship_command_gives_what_the_run_measured(
    run: Path, tree: nx.DiGraph, family: Family, served_evolve: Evolve
) -> None:
    done = served_evolve(
        "kinship", "--base", family.base, family.specialists["facts"], family.specialists["arithmetic"], "--json"
    )
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["pairs"]
    (known,) = (k for k in tree.graph["kinships"] if {k["a"], k["b"]} == {"facts", "arithmetic"})
    assert [found[m] for m in ("pcc", "cs", "ed")] == pytest.approx([known[m] for m in ("pcc", "cs", "ed")])


def test_a_race_that_is_killed_in_a_rung_gives_the_scores_of_a_full_evaluation(
    tree: nx.DiGraph, tmp_path: Path, family: Family, served_evolve: Evolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(tmp_path / "race.yaml", family)
    raw = yaml.safe_load(config.read_text())
    raw["evaluation"]["racing"] = {"rungs": [0.5, 1]}
    raw["strategy"]["max_generations"] = 1
    config.write_text(yaml.safe_dump(raw))
    monkeypatch.setenv("EVOLVE_FAULT", "publish.after_rename:7")  # three foundations, three merges, and the first rung
    assert served_evolve("run", config, "--run-dir", tmp_path / "race").returncode == -9
    monkeypatch.delenv("EVOLVE_FAULT")
    done = served_evolve("run", config, "--run-dir", tmp_path / "race")
    assert done.returncode == 0, done.stderr
    journal = [json.loads(line)["event"] for line in (tmp_path / "race" / "journal.jsonl").read_text().splitlines()]
    rungs = [event for event in journal if event["type"] == "rung_scored"]
    assert {event["model"] for event in rungs} >= {"model-1-1", "model-1-2", "model-1-3"}
    for event in rungs:
        assert all(0 < found["answered"] < found["items"] == 12 for found in event["estimates"].values())
    full = {node["identity"]: node["scores"] for node in tree.nodes.values()}
    nodes = json.loads((tmp_path / "race" / "family_tree.json").read_text())["nodes"]
    known = [node for node in nodes if node["status"] == "evaluated" and node["identity"] in full]
    assert len(known) >= 5
    for node in known:  # its batches are of other items, so the last digits may differ
        for task, score in full[node["identity"]].items():
            assert node["scores"][task]["value"] == pytest.approx(score["value"], abs=1e-6)
