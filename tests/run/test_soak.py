"""Driver and workers are killed at random moments, again and again."""

from __future__ import annotations

from pathlib import Path

import pytest
from soak import soak


@pytest.mark.slow
def test_random_kills(tmp_path: Path) -> None:
    found = soak(tmp_path, kills=10, seed=1, foundations=6)
    assert found.problems == []
    assert found.kills == 10, f"only {found.kills} kills came before the end: {found}"
