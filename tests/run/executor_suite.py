"""What every executor has to do: each test class of one inherits the suite and says how one is made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import calls
import pytest

from evolve.errors import MergeError
from evolve.run.executors import Call, Done, Executor, Failed, Outcome

Heard = list[tuple[str, str, int, int]]


def wait(executor: Executor, seconds: float = 30.0) -> Outcome:
    """The next outcome, in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        outcome = executor.wait(0.1)
        if outcome is not None:
            return outcome
    raise AssertionError("no outcome came in time")


def failure(executor: Executor, call: Call) -> Failed:
    executor.submit(call)
    outcome = wait(executor)
    assert isinstance(outcome, Failed)
    assert outcome.id == call.id
    return outcome


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ends(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process ends in time."""
    end = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not is_alive(pid)


class ExecutorSuite:
    """Conformance of one executor; `make` is code that makes one, given a variable `progress`."""

    make: str

    @pytest.fixture
    def heard(self) -> Heard:
        return []

    @pytest.fixture
    def executor(self, heard: Heard) -> Iterator[Executor]:
        executor = self._made(lambda *report: heard.append(report))
        yield executor
        executor.close()

    def _made(self, progress: Any) -> Executor:
        scope: dict[str, Any] = {"progress": progress}
        exec(self.make, scope)
        made: Executor = scope["executor"]
        return made

    def test_results_are_paired_by_id(self, executor: Executor) -> None:
        outcomes: dict[str, Outcome] = {}
        waiting = [Call(f"call {n}", calls.double, n) for n in range(2 * executor.capacity + 1)]
        in_flight = 0
        while waiting or in_flight:
            while waiting and in_flight < executor.capacity:
                executor.submit(waiting.pop())
                in_flight += 1
            outcome = wait(executor)
            assert outcome.id not in outcomes
            outcomes[outcome.id] = outcome
            in_flight -= 1
        assert outcomes == {f"call {n}": Done(f"call {n}", 2 * n) for n in range(len(outcomes))}
        assert executor.wait(0.0) is None

    def test_more_calls_than_fit_are_refused(self, executor: Executor) -> None:
        for number in range(executor.capacity):
            executor.submit(Call(f"call {number}", calls.sleep, 30.0))
        with pytest.raises(ValueError, match="in flight"):
            executor.submit(Call("one more", calls.double, 1))

    def test_waiting_takes_no_longer_than_asked(self, executor: Executor) -> None:
        assert executor.wait(0.0) is None
        executor.submit(Call("long", calls.sleep, 30.0))
        wait_until_begun = time.monotonic()
        assert executor.wait(0.2) is None
        assert time.monotonic() - wait_until_begun < 5

    def test_what_evolve_raises_comes_whole(self, executor: Executor) -> None:
        failed = failure(executor, Call("a", calls.refuse, "too wide"))
        assert (failed.cause, failed.reason) == ("error", "too wide")
        assert type(failed.error) is MergeError

    def test_a_bug_keeps_its_traceback(self, executor: Executor) -> None:
        failed = failure(executor, Call("a", calls.stumble, None))
        assert (failed.cause, failed.reason) == ("bug", "LookupError: a first line")
        assert "in stumble" in failed.trace

    @pytest.mark.parametrize(
        ("way", "cause"),
        [
            ("MemoryError", "memory"),
            ("torch", "memory"),
            ("allocator", "memory"),
            ("wrapped memory", "memory"),
            ("ENOSPC", "disk"),
            ("EDQUOT", "disk"),
            ("safetensors", "disk"),
            ("sqlite", "disk"),
            ("wrapped disk", "disk"),
            ("EACCES", "bug"),
        ],
    )
    def test_causes_are_told_apart(self, executor: Executor, way: str, cause: str) -> None:
        assert failure(executor, Call("a", calls.raise_, way)).cause == cause

    def test_a_worker_that_dies_costs_its_call_only(self, executor: Executor) -> None:
        failed = failure(executor, Call("a", calls.die, signal.SIGKILL))
        assert failed.cause == "died"
        assert "SIGKILL" in failed.reason
        failed = failure(executor, Call("b", calls.leave, 3))
        assert (failed.cause, failed.reason) == ("died", "its worker process ended with exit code 3")
        executor.submit(Call("c", calls.double, 4))
        assert wait(executor) == Done("c", 8)

    def test_a_worker_that_dies_between_calls_is_replaced(self, executor: Executor) -> None:
        executor.submit(Call("a", calls.pid, None))
        first = wait(executor)
        assert isinstance(first, Done)
        os.kill(first.result, signal.SIGKILL)
        assert ends(first.result)
        executor.submit(Call("b", calls.double, 4))
        outcome = wait(executor)
        assert outcome == Done("b", 8) or (isinstance(outcome, Failed) and outcome.cause == "died")

    def test_a_death_is_noticed_although_its_children_hold_the_pipes(self, executor: Executor, tmp_path: Path) -> None:
        failed = failure(executor, Call("a", calls.die_with_child, tmp_path / "pid"))
        assert failed.cause == "died"
        assert ends(int((tmp_path / "pid").read_text()))

    def test_progress_is_heard(self, executor: Executor, heard: Heard) -> None:
        executor.submit(Call("a", calls.count, 50))
        assert isinstance(wait(executor), Done)
        assert heard[-1] == ("a", "counting", 50, 50)
        assert len(heard) <= 50

    def test_the_log_gets_what_workers_print(self, executor: Executor, tmp_path: Path, capfd: Any) -> None:
        executor.settle(tmp_path / "log", tmp_path)
        executor.submit(Call("a", calls.say, "words to keep"))
        assert isinstance(wait(executor), Done)
        executor.settle(tmp_path / "other", tmp_path)
        executor.submit(Call("b", calls.say, "words elsewhere"))
        assert isinstance(wait(executor), Done)
        executor.close()
        assert "words to keep" in (tmp_path / "log").read_text()
        assert "words elsewhere" in (tmp_path / "other").read_text()
        assert "words" not in "".join(capfd.readouterr())

    def test_a_machine_that_fails_under_an_engine_is_an_accident(self, executor: Executor) -> None:
        executor.submit(Call("a", calls.fail_to_read, None))
        outcome = wait(executor)
        assert isinstance(outcome, Failed)
        assert (outcome.cause, outcome.reason) == ("bug", "the checkpoint cannot be loaded")

    def test_workers_leave_signals_to_the_driver(self, executor: Executor, tmp_path: Path) -> None:
        executor.submit(Call("a", calls.end_softly, None))
        outcome = wait(executor)
        assert isinstance(outcome, Done)
        assert outcome.result == "still here"

    def test_temporary_files_lie_in_the_scratch_folder(self, executor: Executor, tmp_path: Path) -> None:
        executor.settle(tmp_path / "log", tmp_path)
        executor.submit(Call("a", calls.temporary_folder, None))
        outcome = wait(executor)
        assert isinstance(outcome, Done)
        assert outcome.result == str(tmp_path)

    def test_what_is_abandoned_never_comes(self, executor: Executor, tmp_path: Path) -> None:
        executor.submit(Call("a", calls.sleep_and_tell, tmp_path / "pid"))
        pid = _read_pid(tmp_path / "pid")
        executor.abandon()
        assert ends(pid)
        assert executor.wait(0.0) is None
        executor.submit(Call("b", calls.double, 1))
        assert wait(executor) == Done("b", 2)

    @pytest.mark.parametrize("busy", [False, True])
    def test_closing_ends_the_worker(self, executor: Executor, tmp_path: Path, busy: bool) -> None:
        executor.submit(Call("a", calls.sleep_and_tell if busy else calls.tell, tmp_path / "pid"))
        pid = _read_pid(tmp_path / "pid")
        if not busy:
            assert isinstance(wait(executor), Done)
        executor.close()
        assert not is_alive(pid)
        executor.close()

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_no_worker_outlives_the_driver(self, tmp_path: Path, number: signal.Signals) -> None:
        script = (
            "import sys, time\nfrom pathlib import Path\n"
            f"sys.path[:0] = {[str(Path(__file__).parent)]!r}\nimport calls\nfrom evolve.run.executors import Call\n"
            "if __name__ == '__main__':\n"
            "    progress = lambda *_: None\n"
            + "".join(f"    {line}\n" for line in self.make.splitlines())
            + "    executor.submit(Call('a', calls.sleep_with_child, Path(sys.argv[1])))\n"
            "    while True: executor.wait(1.0)\n"
        )
        (tmp_path / "driver.py").write_text(script)
        driver = subprocess.Popen([sys.executable, tmp_path / "driver.py", tmp_path / "pid"], start_new_session=True)
        workers = [_read_pid(tmp_path / "pid"), _read_pid(tmp_path / "pid.child")]
        assert all(map(is_alive, workers))
        driver.send_signal(number)
        driver.wait()
        assert all(map(ends, workers))

    def test_the_driver_imports_no_torch(self) -> None:
        script = f"import sys\nprogress = lambda *_: None\n{self.make}\nassert 'torch' not in sys.modules"
        subprocess.run([sys.executable, "-c", script], check=True)


def _read_pid(path: Path) -> int:
    end = time.monotonic() + 30
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return int(path.read_text())
