"""Family trees for the tests of the analysis."""

from __future__ import annotations

import pytest
from family_trees import Family, greedy_run, kinship_run


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
