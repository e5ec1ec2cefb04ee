"""The result does not depend on where the journal was cut, nor on the order of outcomes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from drive import Drivers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runs import Reference, calls_begun, journal


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_journal_cut_anywhere_gives_the_same_result(
    *,
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
    session_folder: Path,
    drivers: Drivers,
    config: Path,
    reference: Reference,
) -> None:
    complete = (reference.run / "journal.jsonl").read_bytes()
    length = data.draw(st.integers(0, len(complete)))
    copy = session_folder / "cut" / "run"
    shutil.rmtree(copy.parent, ignore_errors=True)
    shutil.copytree(reference.run, copy)
    shutil.copytree(reference.run.parent / ".scores", copy.parent / ".scores")
    (copy / "journal.jsonl").write_bytes(complete[:length])
    tally = copy.parent / "tally"
    ended = drivers(copy, config, EVOLVE_FAKE_TALLY=tally)
    assert ended.code == 0, ended.message
    assert not [work for work in calls_begun(tally) if not work.startswith("measure")]  # all other work is finished
    reference.check(copy)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(capacity=st.integers(2, 5), seed=st.integers(0, 2**16), kill=st.none() | st.integers(20, 400))
def test_outcomes_in_any_order_give_the_same_result(
    *,
    capacity: int,
    seed: int,
    kill: int | None,
    session_folder: Path,
    drivers: Drivers,
    config: Path,
    reference: Reference,
) -> None:
    run = session_folder / "order" / "run"
    shutil.rmtree(run.parent, ignore_errors=True)
    run.parent.mkdir()
    if kill is not None:
        drivers(run, config, capacity=capacity, seed=seed, EVOLVE_FAULT=f"*:{kill}")
    ended = drivers(run, config, capacity=capacity, seed=seed)
    assert ended.code == 0, ended.message
    reference.check(run)
    work = [(e["type"], e.get("model")) for e in journal(run) if e["type"] in {"model_merged", "model_evaluated"}]
    assert len(work) == len(set(work))
