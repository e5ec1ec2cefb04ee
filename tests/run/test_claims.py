"""Claims on scores: runs that share a store do not compute the same score at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evolve.run import claims
from evolve.run.claims import claim
from runs import calls_begun, tree_without_times

A, B, C = ("a" * 64 + "/all", "b" * 64 + "/first-50", "c" * 64 + "/items-" + "0" * 64)


def test_a_score_is_claimed_by_one_until_it_is_released(tmp_path: Path) -> None:
    first = claim(tmp_path / "locks", [A, B])
    assert first is not None
    assert claim(tmp_path / "locks", [B, C]) is None
    other = claim(tmp_path / "locks", [C])  # the failed claim keeps none of its scores
    assert other is not None
    first.release()
    assert claim(tmp_path / "locks", [A, B]) is not None


def test_a_process_that_is_killed_gives_its_claims_back(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from evolve.run.claims import claim
held = claim(Path({str(tmp_path)!r}), [{A!r}])
print("held", flush=True)
time.sleep(600)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert claim(tmp_path, [A]) is None
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert claim(tmp_path, [A]) is not None


@pytest.mark.parametrize("error", [NotImplementedError("no flock here"), PermissionError("read-only")])
def test_scores_that_cannot_be_locked_are_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def refuse(self: object) -> None:
        raise error

    monkeypatch.setattr(claims.filelock.FileLock, "acquire", refuse)
    with caplog.at_level("WARNING", "evolve.run"):
        assert claim(tmp_path, [A]) is not None
    assert str(error) in caplog.text


def test_two_runs_that_start_together_score_each_model_once(tmp_path: Path, config: Path) -> None:
    support = Path(__file__).parents[1] / "support"
    environment = {
        **os.environ,
        "EVOLVE_FAKE": "evaluate:*:run=sleep 0.3",
        "EVOLVE_FAKE_TALLY": str(tmp_path / "tally"),
    }
    command = [
        sys.executable,
        support / "fake_evolve.py",
        "run",
        config,
        "--set",
        "strategy.max_generations=1",
        "--run-dir",
    ]
    runs = [
        subprocess.Popen(
            [*command, tmp_path / "runs" / name],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in ("one", "two")
    ]
    outputs = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    scored = {call: times for call, times in calls_begun(tmp_path / "tally").items() if call.startswith("evaluate ")}
    assert set(scored.values()) == {1}
    one, two = (
        {n["id"]: n["average"] for n in tree_without_times(tmp_path / "runs" / name)["nodes"]}
        for name in ("one", "two")
    )
    assert one == two
    assert scored.keys() == {f"evaluate {name}" for name in one}
    assert any("another run is scoring it" in output for output in outputs)
