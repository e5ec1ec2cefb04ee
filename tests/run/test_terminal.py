"""The terminal is not the run: output that is lost, closed descriptors and a terminal that closes."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from drive import Drivers
from executor_suite import ends, is_alive

from runs import SUPPORT, Reference, calls_begun, children_of, environment, events

LOST = "the run goes on without it"


def _close(*numbers: int) -> Callable[[], None]:
    """Return a function for the child process that closes standard descriptors."""

    def close() -> None:
        for number in numbers:
            os.close(number)

    return close


def _command(*arguments: str | Path) -> list[str]:
    return [sys.executable, str(SUPPORT / "fake_evolve.py"), *map(str, arguments)]


def _log_lines(run: Path) -> list[str]:
    return [line for line in (run / "run.log").read_text().splitlines() if LOST in line]


@pytest.fixture
def full() -> Iterator[int]:
    """Yield a descriptor of a full disk."""
    descriptor = os.open("/dev/full", os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


CLOSED = {"no output": (1,), "no input and no standard error": (0, 2), "no descriptor": (0, 1, 2)}


@pytest.mark.parametrize("numbers", CLOSED.values(), ids=CLOSED)
def test_a_run_with_closed_descriptors_ends_as_usual(
    numbers: tuple[int, ...], tmp_path: Path, config: Path, reference: Reference
) -> None:
    run = tmp_path / "beside" / "run"
    done = subprocess.run(
        _command("run", config, "--run-dir", run),
        env=environment(),
        preexec_fn=_close(*numbers),
        check=False,
        timeout=120,
    )
    assert done.returncode == 0
    reference.check(run)
    assert len(_log_lines(run)) == (1 in numbers)
    log = (run / "run.log").read_text().splitlines()
    assert all(line.startswith("20") for line in log)  # nothing but records reached the log


def test_a_run_whose_output_goes_to_a_full_disk_ends_as_usual(
    tmp_path: Path, full: int, config: Path, reference: Reference
) -> None:
    run = tmp_path / "beside" / "run"
    done = subprocess.run(
        _command("run", config, "--run-dir", run),
        env=environment(),
        stdout=full,
        stderr=subprocess.PIPE,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    reference.check(run)
    (line,) = _log_lines(run)
    assert "the output cannot be written (No space left on device)" in line


def test_the_reader_of_a_pipe_may_end_during_the_run(tmp_path: Path, config: Path, reference: Reference) -> None:
    run = tmp_path / "beside" / "run"
    process = subprocess.Popen(
        _command("run", config, "--run-dir", run), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert b"rehearsal: A, B, C" in process.stdout.readline()
    assert b"run fake started" in process.stdout.readline()
    process.stdout.close()
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, b"")
    reference.check(run)
    assert len(_log_lines(run)) == 1


def test_a_refused_run_keeps_its_exit_code_without_output(tmp_path: Path, full: int) -> None:
    done = subprocess.run(
        _command("run", tmp_path / "none.yaml"), env=environment(), stdout=full, stderr=full, check=False, timeout=60
    )
    assert done.returncode == 2


def test_a_run_needs_nothing_of_its_environment(tmp_path: Path, config: Path, reference: Reference) -> None:
    run = tmp_path / "größe 日本" / "run"
    odd = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "TERM": "dumb", "COLUMNS": "0", "LINES": "x"}
    env = environment(**odd, TMPDIR="/nowhere", EVOLVE_CACHE_DIR="/dev/null")
    done = subprocess.run(
        _command("run", config, "--run-dir", run),
        env={name: value for name, value in env.items() if name != "HOME"},
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (
        0,
        b"/dev/null/hashes.json: hashes of files are not cached (File exists)\n",
    )
    assert done.stdout.isascii()
    assert rb" \u65e5\u672c/run/models/model-1-1" in done.stdout
    reference.check(run)


# ------------------------------------------------------------------------------------------------- a closed terminal


class _Terminal:
    """A run on a terminal that the test can close."""

    def __init__(self, config: Path, run: Path, *, ignored: bool, **env: str | Path) -> None:
        self._screen, terminal = pty.openpty()

        def prepare() -> None:
            os.setsid()
            import fcntl
            import termios

            fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # the kernel sends SIGHUP to the session of a closed terminal
            signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)

        self.process = subprocess.Popen(
            _command("run", config, "--run-dir", run),
            env={**environment(**env), "TERM": "xterm"},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            preexec_fn=prepare,  # noqa: PLW1509 - pytest has no threads
        )
        os.close(terminal)
        os.set_blocking(self._screen, False)

    def read_until(self, condition: Callable[[], bool]) -> None:
        """Read the screen, so that the run does not wait for it, until a condition holds."""
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end
            assert self.process.poll() is None
            try:
                os.read(self._screen, 65536)
            except BlockingIOError:
                time.sleep(0.02)

    def close(self) -> None:
        os.close(self._screen)


def test_a_run_outlives_its_terminal_if_hangups_are_ignored(tmp_path: Path, config: Path, reference: Reference) -> None:
    run, tally = tmp_path / "beside" / "run", tmp_path / "tally"
    terminal = _Terminal(config, run, ignored=True, EVOLVE_FAKE="merge:model-1-2:sleep1", EVOLVE_FAKE_TALLY=tally)
    terminal.read_until(lambda: "merge model-1-2" in calls_begun(tally))
    terminal.close()
    assert terminal.process.wait(60) == 0
    reference.check(run)
    assert len(_log_lines(run)) == 1
    assert "Traceback" not in (run / "run.log").read_text()


def test_a_hangup_stops_the_run_like_sigterm(
    tmp_path: Path, config: Path, reference: Reference, drivers: Drivers
) -> None:
    """A merge is finished and recorded."""
    run, tally = tmp_path / "beside" / "run", tmp_path / "tally"
    terminal = _Terminal(config, run, ignored=False, EVOLVE_FAKE="merge:model-1-2:sleep1", EVOLVE_FAKE_TALLY=tally)
    terminal.read_until(lambda: "merge model-1-2" in calls_begun(tally))
    terminal.close()
    assert terminal.process.wait(60) == 129
    assert "the session ended: interrupted by SIGHUP" in (run / "run.log").read_text()
    assert "Traceback" not in (run / "run.log").read_text()
    assert "model-1-2" in {event["model"] for event in events(run, "model_merged")}
    assert drivers.command("resume", run, EVOLVE_FAKE_TALLY=tally).returncode == 0
    assert calls_begun(tally)["merge model-1-2"] == 1
    reference.check(run)


# ------------------------------------------------------------------------------------------- before the run begins


@pytest.mark.parametrize(
    ("command", "number"),
    [("run", signal.SIGINT), ("run", signal.SIGTERM), ("run", signal.SIGHUP), ("check", signal.SIGTERM)],
)
def test_a_signal_before_the_first_event_leaves_nothing(
    *, command: str, number: signal.Signals, tmp_path: Path, config: Path
) -> None:
    process, temporary = _start_waiting(command, tmp_path, config)
    assert [path for path in temporary.rglob("*") if path.is_dir()]  # the folder of the worker
    workers = children_of(process.pid)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    words = {
        "run": f"evolve: interrupted by {number.name}; stopped before the run began; nothing was recorded, start it ",
        "check": f"evolve: interrupted by {number.name}; nothing was changed, start the check again\n",
    }
    assert err.startswith(words[command])
    assert err.count("\n") == 1
    assert not [pid for pid in workers if not ends(pid)]
    assert not list(temporary.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["began", "tmp"]


def test_the_next_command_removes_what_a_killed_one_left(tmp_path: Path, config: Path) -> None:
    process, temporary = _start_waiting("check", tmp_path, config)
    (left,) = temporary.iterdir()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert left.is_dir()
    done = subprocess.run(
        _command("check", config), env=environment(TMPDIR=temporary), capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not list(temporary.iterdir())


def _start_waiting(command: str, tmp_path: Path, config: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start a command and wait until its worker waits; return its process and its temporary folder."""
    temporary, began = tmp_path / "tmp", tmp_path / "began"
    temporary.mkdir()
    arguments: list[Any] = ["--run-dir", tmp_path / "runs" / "x"] if command == "run" else []
    process = subprocess.Popen(
        _command(command, config, *arguments),
        env=environment(TMPDIR=temporary, EVOLVE_FAKE=f"inspect:*:sleep60:1:{began}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 60
    while not began.exists():
        assert time.monotonic() < end
        assert is_alive(process.pid)
        time.sleep(0.02)
    return process, temporary
