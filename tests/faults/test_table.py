"""The table of faults: every row is a fault that a user can meet, seen from outside."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from fast import fast_folder

from tests.faults import (
    changed_inputs,
    changing_folders,
    hostile_files,
    hostile_folders,
    hostile_models,
    late_failures,
    misread_inputs,
    terminals,
)
from tests.faults.commands import Commands
from tests.faults.places import Places
from tests.faults.table import Fault, judge

TABLE = (
    *changed_inputs.ROWS,
    *misread_inputs.ROWS,
    *late_failures.ROWS,
    *hostile_folders.ROWS,
    *changing_folders.ROWS,
    *hostile_files.ROWS,
    *hostile_models.ROWS,
    *terminals.ROWS,
)


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield from fast_folder(tmp_path_factory, "fault")


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield from fast_folder(tmp_path_factory, "faults")


@pytest.fixture(scope="session")
def places(session_folder: Path) -> Iterator[Places]:
    commands = Commands(session_folder / "cache")
    yield Places(session_folder / "places", commands)
    commands.close()


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=f"{fault.kind}-{fault.name}", marks=[pytest.mark.slow] if fault.slow else [])
        for fault in TABLE
    ],
)
def test_a_fault(fault: Fault, places: Places, tmp_path: Path) -> None:
    judge(fault, places.make(tmp_path, fault.family))


def test_each_row_has_a_name_of_its_own() -> None:
    names = Counter((fault.kind, fault.name) for fault in TABLE)
    assert [name for name, count in names.items() if count > 1] == []


def test_the_readme_counts_the_rows() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    counts = {int(number) for number in re.findall(r"^\| [^|]+ \| (\d+) \|$", readme, re.MULTILINE)}
    assert counts == set(Counter(fault.kind for fault in TABLE).values())
