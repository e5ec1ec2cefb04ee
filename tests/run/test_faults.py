"""The driver is killed at each durable step; the resumed run loses and repeats nothing and leaves no extra files."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import pytest
from drive import Drivers

from evolve.run.faults import ANY, POINTS
from runs import Reference, calls_begun, finished_work

_UNINTERRUPTED = [point for point in POINTS if point != "remove.after_rename"]


def _resume(drivers: Drivers, run: Path, config: Path, reference: Reference) -> None:
    """Resume, and check that finished work is not repeated."""
    done, tally = finished_work(run), run.parent / "tally-2"
    ended = drivers(run, config, EVOLVE_FAKE_TALLY=tally)
    assert ended.code == 0, ended.message
    assert not done & set(calls_begun(tally))
    assert max(calls_begun(tally).values(), default=1) == 1
    reference.check(run)


@pytest.mark.parametrize(
    "share", [0.0, pytest.param(0.01, marks=pytest.mark.slow), pytest.param(0.35, marks=pytest.mark.slow), 0.7, 1.0]
)
@pytest.mark.parametrize("point", _UNINTERRUPTED)
def test_a_driver_killed_at_a_point_resumes(
    *, point: str, share: float, tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    count = reference.passed[point]
    nth = max(1, min(count, round(share * count) + (share == 0.01)))
    killed = drivers(tmp_path / "run", config, EVOLVE_FAULT=f"{point}:{nth}")
    assert killed.code == -signal.SIGKILL
    _resume(drivers, tmp_path / "run", config, reference)


@pytest.mark.parametrize("first", ["publish.before_fsync:1", "publish.after_fsync:10"])
def test_a_driver_killed_during_the_clean_up_after_a_kill_resumes(
    first: str, tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run = tmp_path / "run"
    for fault in (first, "remove.after_rename"):
        assert drivers(run, config, EVOLVE_FAULT=fault).code == -signal.SIGKILL
    _resume(drivers, run, config, reference)


@pytest.mark.slow
def test_a_driver_killed_at_every_single_point_resumes(
    tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    for nth in range(1, reference.passed[ANY] + 1):
        run = tmp_path / str(nth) / "run"
        run.parent.mkdir()
        assert drivers(run, config, EVOLVE_FAULT=f"{ANY}:{nth}").code == -signal.SIGKILL
        _resume(drivers, run, config, reference)
        shutil.rmtree(run.parent)


def test_a_run_passes_all_points(reference: Reference, tmp_path: Path, drivers: Drivers, config: Path) -> None:
    assert set(reference.passed) == {*_UNINTERRUPTED, ANY}
    assert drivers(tmp_path / "run", config, EVOLVE_FAULT="publish.before_fsync:1").code == -signal.SIGKILL
    assert "remove.after_rename" in drivers(tmp_path / "run", config).passed


@pytest.mark.parametrize("seed", range(3))
def test_a_driver_killed_repeatedly_resumes(
    seed: int, tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run, draw, tally = tmp_path / "run", random.Random(seed), tmp_path / "tally"
    for _ in range(300):
        done = finished_work(run)
        ended = drivers(run, config, EVOLVE_FAULT=f"{ANY}:{draw.randint(5, 90)}", EVOLVE_FAKE_TALLY=tally)
        assert not done & set(calls_begun(tally))
        tally.unlink(missing_ok=True)
        if ended.code == 0:
            break
        assert ended.code == -signal.SIGKILL, ended.message
    reference.check(run)
