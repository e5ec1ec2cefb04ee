"""The three real benchmarks, as far as their items are at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolve.engines.evaluation import check_tasks, evaluate

from . import _world

ITEMS = Path(__file__).parents[4] / "shared" / "benchmarks"


@pytest.mark.benchmarks
@pytest.mark.skipif(not (ITEMS / "gsm8k" / "test.jsonl").is_file(), reason=f"no real benchmark items in {ITEMS}")
def test_real_items(model, tmp_path):
    three = _world.three_tasks(ITEMS, limit=8)
    assert [facts.documents for facts in check_tasks(three, ()).values()] == [8, 8, 8]
    result = evaluate(_world.job(model, three, tmp_path), _world.silent)
    assert [score.samples for score in result.scores.values()] == [8, 8, 8]
    assert all(0 <= score.value <= 1 for score in result.scores.values())
