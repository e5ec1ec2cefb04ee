"""Family trees, and rendering to plain text."""

from __future__ import annotations

import io

import pytest
from family_trees import Family, greedy_run, kinship_run
from rich.console import Console


@pytest.fixture
def family():
    """The `Family` class, so that a test builds its own run."""
    return Family


@pytest.fixture
def greedy():
    """The paper's greedy experiment, complete."""
    return greedy_run()


@pytest.fixture
def kinship():
    """The first three generations of the paper's kinship experiment, not stopped."""
    return kinship_run()


@pytest.fixture
def render():
    """Plain text of a view as a pipe gets it: 80 columns, no colour, no trailing blanks."""

    def text(view, width=80, encoding="utf-8"):
        file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        console = Console(file=file, width=width, color_system=None, force_terminal=False)
        console.print(view, crop=False)
        file.seek(0)
        return "\n".join(line.rstrip() for line in file.read().splitlines()) + "\n"

    return text
