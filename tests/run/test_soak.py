"""Driver and workers are killed repeatedly at random times."""

from __future__ import annotations

from pathlib import Path

import pytest
from real_soak import real_soak
from soak import soak


@pytest.mark.slow
def test_a_run_survives_random_kills(tmp_path: Path) -> None:
    found = soak(tmp_path, kills=10, seed=1, foundations=6)
    assert found.problems == []
    assert found.kills == 10, f"only {found.kills} kills came before the end: {found}"


@pytest.mark.slow
def test_runs_with_the_real_engines_survive_random_kills(tmp_path: Path) -> None:
    found = real_soak(tmp_path, kills=3, seed=1)
    assert found.problems == []
    assert found.kills == found.early.total() == 3
