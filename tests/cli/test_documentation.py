"""docs/family_tree.md: its tables name the fields that the tree has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import evolve

PAGE = Path(evolve.__file__).parents[1] / "docs" / "family_tree.md"


def fields(heading: str) -> list[str]:
    """Return the first column of the table below a heading."""
    section = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)


def test_every_field_of_a_node_is_described(command, finished_run):
    for node in json.loads(command("tree", finished_run, "--json").out)["nodes"]:
        assert sorted(fields("Nodes")) == sorted(node)


def test_every_field_of_the_graph_is_described(command, finished_run):
    assert sorted(fields("The graph")) == sorted(json.loads(command("tree", finished_run, "--json").out)["graph"])


def test_every_field_has_meaning_and_unit():
    rows = [line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]

    assert len(rows) == len(fields("Nodes")) + len(fields("The graph"))
    assert all(len(row) == 3 and all(cell.strip(" |") for cell in row) for row in rows)
