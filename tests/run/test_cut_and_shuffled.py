"""Wherever the journal is cut, and in whichever order outcomes come: the tree is the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from drive import Drivers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runs import Reference, journal, tallied


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_journal_cut_anywhere_comes_to_the_same(
    *,
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
    place: Path,
    drivers: Drivers,
    config: Path,
    reference: Reference,
) -> None:
    whole = (reference.run / "journal.jsonl").read_bytes()
    length = data.draw(st.integers(0, len(whole)))
    copy = place / "cut" / "run"
    shutil.rmtree(copy.parent, ignore_errors=True)
    shutil.copytree(reference.run, copy)
    shutil.copytree(reference.run.parent / ".scores", copy.parent / ".scores")
    (copy / "journal.jsonl").write_bytes(whole[:length])
    tally = copy.parent / "tally"
    ended = drivers(copy, config, EVOLVE_FAKE_TALLY=tally)
    assert ended.code == 0, ended.message
    assert not [work for work in tallied(tally) if not work.startswith("measure")]  # all else is in place
    reference.check(copy)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(capacity=st.integers(2, 5), seed=st.integers(0, 2**16), kill=st.none() | st.integers(20, 400))
def test_outcomes_in_any_order_come_to_the_same(
    *, capacity: int, seed: int, kill: int | None, place: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run = place / "order" / "run"
    shutil.rmtree(run.parent, ignore_errors=True)
    run.parent.mkdir()
    if kill is not None:
        drivers(run, config, capacity=capacity, seed=seed, EVOLVE_FAULT=f"*:{kill}")
    ended = drivers(run, config, capacity=capacity, seed=seed)
    assert ended.code == 0, ended.message
    reference.check(run)
    work = [(e["type"], e.get("model")) for e in journal(run) if e["type"] in {"model_merged", "model_evaluated"}]
    assert len(work) == len(set(work))
