"""A run with several recipes: each pair is merged by each recipe, which the tree names."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import yaml
from drive import Drivers


def test_each_pair_is_merged_by_each_recipe(tmp_path: Path, drivers: Drivers, config: Path) -> None:
    raw = yaml.safe_load(config.read_text())
    raw["base_model"] = str(config.parent / "base")
    raw["foundation_models"] = {name: str(config.parent / name) for name in raw["foundation_models"]}
    raw["merge"]["recipe"] = ["slerp", "linear"]
    raw["strategy"]["max_generations"] = 2
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(raw))

    assert drivers(tmp_path / "run", own).code == 0

    nodes = {n["id"]: n for n in json.loads((tmp_path / "run" / "family_tree.json").read_text())["nodes"]}
    first = {name: node for name, node in nodes.items() if node["generation"] == 1}
    assert sorted(first) == [f"model-1-{number}" for number in range(1, 7)]
    merges = {(*sorted(node["parents"]), node["recipe_name"]) for node in first.values()}
    pairs = (("A", "B"), ("A", "C"), ("B", "C"))
    assert merges == {(*pair, recipe) for pair, recipe in product(pairs, ("slerp", "linear"))}
    assert {n["recipe_name"] for n in nodes.values() if n["kind"] == "exploration"} == {"slerp", "linear"}
    for node in first.values():
        assert yaml.safe_load((tmp_path / "run" / node["recipe"]).read_text())["merge_method"] == node["recipe_name"]
