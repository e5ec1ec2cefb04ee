"""The family of the demo, whole: it must be a real test bed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evolve.nursery import load
from tests.conftest import Evolve


@pytest.mark.family
def test_the_family_passes_its_examination(tmp_path: Path, evolve: Evolve) -> None:
    """`evolve nursery` exits with 0 only where each specialist is best at its task and a merge beats its parents."""
    done = evolve("nursery", tmp_path / "nursery", timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    family = load(tmp_path / "nursery")
    assert family is not None
    assert set(family.specialists) == {"coreference", "arithmetic", "facts"}
    assert json.loads((tmp_path / "nursery" / "nursery.json").read_text())["seed"] == 0
