"""The command on run folders: exit codes, messages and remaining files."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from drive import Drivers
from executor_suite import is_alive
from fakes import write_family

from runs import Reference, calls_begun, children_of, events, files, session_of, start

Raw = dict[str, Any]


def _edit(config: Path, change: Callable[[Raw], Any]) -> None:
    raw = yaml.safe_load(config.read_text())
    change(raw)
    config.write_text(yaml.safe_dump(raw, sort_keys=False))


BAD: dict[str, tuple[Callable[[Raw], Any], str]] = {
    "unknown key": (lambda raw: raw.update(sead=1), "sead"),
    "missing model": (lambda raw: raw["foundation_models"].update(A="./nowhere"), "foundation_models.A"),
    "unknown recipe": (lambda raw: raw["merge"].update(recipe="slurp"), "slurp"),
    "no dataset": (lambda raw: raw["evaluation"].update(datasets={"alpha": "./none"}), "evaluation.datasets.alpha"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_any_engine_runs_and_leaves_no_files(
    case: str, tmp_path: Path, drivers: Drivers
) -> None:
    config = write_family(tmp_path / "family")
    change, word = BAD[case]
    _edit(config, change)
    done = drivers.command(
        "run", config, "--run-dir", tmp_path / "runs" / "x", EVOLVE_FAKE=f"inspect:*:fill={tmp_path}/engine"
    )
    assert done.returncode == 2, done.stderr
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["family"]


def test_a_failed_check_by_the_engines_leaves_no_files(tmp_path: Path, drivers: Drivers, config: Path) -> None:
    done = drivers.command("run", config, "--run-dir", tmp_path / "runs" / "x", EVOLVE_FAKE="inspect:*:refuse")
    assert done.returncode == 1
    done = drivers.command("run", config, "--run-dir", tmp_path / "runs" / "x", EVOLVE_FAKE="inspect:*:kill")
    assert done.returncode == 1
    assert "check tasks: its worker process was killed" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_model_listed_twice_is_refused_and_leaves_no_files(tmp_path: Path, drivers: Drivers) -> None:
    config = write_family(tmp_path / "family")
    shutil.copytree(config.parent / "A", config.parent / "A-copy")
    _edit(config, lambda raw: raw["foundation_models"].update(D="./A-copy"))
    done = drivers.command("run", config, "--run-dir", tmp_path / "runs" / "x")
    assert done.returncode == 2
    assert "foundation_models.D: has the same files as A" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["family"]


@pytest.mark.parametrize("command", ["tree", "show", "status", "resume", "run"])
@pytest.mark.parametrize("kind", ["missing", "file", "not a run", "read-only"])
def test_folders_that_are_not_runs_are_refused(
    command: str, kind: str, tmp_path: Path, drivers: Drivers, config: Path
) -> None:
    path = tmp_path / "folder"
    if kind == "file":
        path.write_text("")
    elif kind == "not a run":
        path.mkdir()
        (path / "thesis.tex").write_text("")
    elif kind == "read-only":
        path = Path("/proc/evolve")  # root cannot write there either
    if command == "run" and kind == "missing":
        return
    arguments = {"run": ["run", config, "--run-dir", path], "show": ["show", path, "A"]}.get(command, [command, path])
    before = sorted(tmp_path.rglob("*"))
    done = drivers.command(*arguments)
    assert done.returncode == 2, done.stderr
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_finished_run_starts_no_engine(tmp_path: Path, reference: Reference, drivers: Drivers, config: Path) -> None:
    before, tally = files(reference.run), tmp_path / "tally"
    for arguments in (["run", config, "--run-dir", reference.run], ["resume", reference.run]):
        done = drivers.command(*arguments, EVOLVE_FAKE="inspect:*:kill", EVOLVE_FAKE_TALLY=tally)
        assert done.returncode == 0, done.stderr
        assert "has finished already" in done.stdout
        assert "converged" in done.stdout
    assert files(reference.run) == before
    assert not tally.exists()


def test_a_run_whose_children_all_failed_exits_with_1(tmp_path: Path, drivers: Drivers, config: Path) -> None:
    faults = ",".join(f"merge:model-1-{n}:refuse" for n in (1, 2, 3))
    done = drivers.command("run", config, "--run-dir", tmp_path / "run", EVOLVE_FAKE=faults)
    assert done.returncode == 1
    assert "every child of generation 1 failed: model-1-1 is refused" in done.stderr


def test_a_foundation_that_fails_exits_with_1_and_can_be_resumed(
    tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run = tmp_path / "run"
    done = drivers.command("run", config, "--run-dir", run, EVOLVE_FAKE="evaluate:C:kill")
    assert done.returncode == 1
    assert "evaluate C: its worker process was killed by SIGKILL" in done.stderr
    assert drivers.command("resume", run).returncode == 0
    reference.check(run, retries=False)


def test_a_killed_run_resumes_with_and_without_its_configuration(
    tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    for number, again in enumerate([["run", config, "--run-dir"], ["resume"]]):
        run = tmp_path / str(number) / "run"
        drivers(run, config, EVOLVE_FAULT="journal.after_fsync:20")
        done = drivers.command(*again, run)
        assert done.returncode == 0, done.stderr
        assert "has finished already" not in done.stdout
        reference.check(run)


def test_other_settings_are_refused_with_a_table(tmp_path: Path, drivers: Drivers, config: Path) -> None:
    run = tmp_path / "run"
    drivers(run, config, EVOLVE_FAULT="journal.after_fsync:20")
    done = drivers.command("run", config, "--run-dir", run, "--set", "strategy.top_k=5", EVOLVE_FAKE="inspect:*:kill")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].split() == ["strategy.top_k", "3", "5"]


def test_a_second_driver_is_refused_at_once(tmp_path: Path, drivers: Drivers, config: Path) -> None:
    run = tmp_path / "run"
    first = start("run", config, "--run-dir", run, EVOLVE_FAKE="evaluate:model-1-1:sleep60")
    try:
        _until(lambda: (run / "journal.jsonl").exists() and len(events(run, "model_merged")) > 0)
        before, began = (run / "journal.jsonl").read_bytes(), time.monotonic()
        for arguments in (["resume", run], ["run", config, "--run-dir", run], ["resume", run, "--force"]):
            done = drivers.command(*arguments)
            assert done.returncode == 2
            assert f"process {first.pid} on {socket.gethostname()}, started 20" in done.stderr
        assert time.monotonic() - began < 30
        assert (run / "journal.jsonl").read_bytes() == before
        assert f"process {first.pid}" in drivers.command("status", run).stdout
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
    assert f"process {first.pid}" not in drivers.command("status", run).stdout
    assert drivers.command("resume", run).returncode == 0


def test_a_lock_of_another_host_needs_force(tmp_path: Path, drivers: Drivers, config: Path) -> None:
    run = tmp_path / "run"
    drivers(run, config, EVOLVE_FAULT="journal.after_fsync:20")
    (run / "driver.json").write_text('{"host": "elsewhere", "pid": 7, "started": "2026-01-01T00:00:00+00:00"}')
    done = drivers.command("resume", run)
    assert done.returncode == 2
    assert "process 7 on elsewhere, started 2026-01-01T00:00:00+00:00" in done.stderr
    assert drivers.command("resume", run, "--force").returncode == 0


def test_commands_that_read_runs_load_no_torch(
    tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    """Neither does the driver of a run; each command is a separate process."""
    drivers(tmp_path / "run", config, EVOLVE_FAULT="journal.after_fsync:20")
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    readers = [["status", reference.run], ["tree", reference.run], ["show", reference.run, "A"]]
    for arguments in (*readers, ["resume", reference.run], ["resume", tmp_path / "run"]):
        process = start(*arguments, PYTHONPATH=tmp_path)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err


def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# ------------------------------------------------------------------------------------------------------- interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", ["merge", "evaluate"])
def test_the_first_signal_stops_the_run_at_a_safe_point(
    *, step: str, number: signal.Signals, tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    """A merge is finished and recorded, an evaluation is abandoned and begun again on resume."""
    run, tally = tmp_path / "beside" / "run", tmp_path / "tally"
    seconds = "1" if step == "merge" else "60"
    process = start(
        "run", config, "--run-dir", run, EVOLVE_FAKE=f"{step}:model-1-2:sleep{seconds}", EVOLVE_FAKE_TALLY=tally
    )
    _until(lambda: f"{step} model-1-2" in calls_begun(tally))
    os.killpg(process.pid, number)  # like a terminal, to the whole process group
    out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "press Ctrl-C again to stop now" in out
    assert f"evolve resume {run}" in err
    assert "Traceback" not in err
    _until(lambda: not any(map(is_alive, session_of(process.pid))))
    merged = {event["model"] for event in events(run, "model_merged")}
    assert "model-1-2" in merged
    assert drivers.command("resume", run, EVOLVE_FAKE_TALLY=tally).returncode == 0
    assert calls_begun(tally)[f"{step} model-1-2"] == (1 if step == "merge" else 2)
    reference.check(run)


def test_the_second_signal_stops_the_run_at_once(
    tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run, tally = tmp_path / "beside" / "run", tmp_path / "tally"
    process = start("run", config, "--run-dir", run, EVOLVE_FAKE="merge:model-1-2:sleep60", EVOLVE_FAKE_TALLY=tally)
    _until(lambda: "merge model-1-2" in calls_begun(tally))
    workers = children_of(process.pid)
    assert workers
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert process.returncode == 143
    _until(lambda: not any(map(is_alive, workers)))
    assert drivers.command("resume", run).returncode == 0
    reference.check(run)


@pytest.mark.parametrize("command", ["run", "check"])
def test_an_interrupted_rehearsal_leaves_no_files(command: str, tmp_path: Path, config: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = start(command, config, TMPDIR=scratch, EVOLVE_FAKE="rehearse:A:sleep60")
    _until(lambda: len(list(scratch.glob("evolve-*/tmp*"))) == 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted by SIGINT" in err
    assert "Traceback" not in err
    _until(lambda: not any(map(is_alive, session_of(process.pid))))
    assert sorted(tmp_path.rglob("*")) == [scratch]


def test_a_foundation_that_fails_before_any_score_does_not_bind_the_folder(
    tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run = tmp_path / "run"
    done = drivers.command(
        "run", config, "--run-dir", run, "--set", "evaluation.limit=5", EVOLVE_FAKE="evaluate:A:refuse"
    )
    assert done.returncode == 1
    assert not events(run, "model_evaluated")
    done = drivers.command("run", config, "--run-dir", run)
    assert done.returncode == 0, done.stderr
    assert "the run there recorded no score" in done.stdout
    reference.check(run)
    done = drivers.command("run", config, "--run-dir", run, "--set", "evaluation.limit=5")
    assert done.returncode == 2
    assert "evaluation.limit" in done.stderr
