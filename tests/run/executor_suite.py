"""The conformance suite of executors; the test class of each executor inherits it and gives the code to make one."""

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

from evolve.errors import DiskError, MergeError, RunError
from evolve.run.executors import Call, Done, Executor, Failed, Outcome, run_call

Reports = list[tuple[str, str, int, int]]


def wait(executor: Executor, seconds: float = 30.0) -> Outcome:
    """Return the next outcome; fail if none comes in time."""
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
    """Return whether a process is running; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ends(pid: int, seconds: float = 10.0) -> bool:
    """Wait for the end of a process; return whether it ended in time."""
    end = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not is_alive(pid)


class ExecutorSuite:
    """Conformance tests of an executor; `make` is code that makes it from the variables `progress` and `device`."""

    make: str

    @pytest.fixture
    def reports(self) -> Reports:
        return []

    @pytest.fixture
    def executor(self, reports: Reports) -> Iterator[Executor]:
        executor = self._make_executor(lambda *report: reports.append(report))
        yield executor
        executor.close()

    def _make_executor(self, progress: Any, device: str = "auto") -> Executor:
        scope: dict[str, Any] = {"progress": progress, "device": device}
        exec(self.make, scope)
        executor: Executor = scope["executor"]
        return executor

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

    def test_more_calls_than_the_capacity_are_refused(self, executor: Executor) -> None:
        for number in range(executor.capacity):
            executor.submit(Call(f"call {number}", calls.sleep, 30.0))
        with pytest.raises(ValueError, match="in flight"):
            executor.submit(Call("one more", calls.double, 1))

    def test_wait_returns_none_after_the_timeout(self, executor: Executor) -> None:
        assert executor.wait(0.0) is None
        executor.submit(Call("long", calls.sleep, 30.0))
        assert executor.wait(0.2) is None

    def test_a_host_call_gets_no_device(self, executor: Executor) -> None:
        assert run_call(executor, Call("a", calls.host_only, "done")) == "done"
        assert run_call(executor, Call("b", calls.return_device, None))[0] == "none"

    @pytest.mark.parametrize(
        ("device", "given", "visible"), [("cuda:1", "cuda", "1"), ("cuda:0", "cuda", "0"), ("auto", "auto", None)]
    )
    def test_a_device_call_sees_only_its_gpu(
        self, device: str, given: str, visible: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        executor = self._make_executor(lambda *_: None, device)
        try:
            found = run_call(executor, Call("a", calls.return_device, None, gpus=1))
        finally:
            executor.close()
        assert found == (given, visible, False), "device, CUDA_VISIBLE_DEVICES, and whether torch was imported before"

    def test_run_call_raises_the_error_of_the_call(self, executor: Executor) -> None:
        with pytest.raises(MergeError, match=r"\Atoo wide\Z"):
            run_call(executor, Call("a", calls.refuse, "too wide"))

    def test_run_call_turns_other_failures_into_run_errors(self, executor: Executor) -> None:
        with pytest.raises(RunError, match="b: LookupError: a first line") as caught:
            run_call(executor, Call("b", calls.raise_lookup_error, None))
        assert "in raise_lookup_error" in "".join(caught.value.__notes__)
        with pytest.raises(DiskError, match="c: the disk is full"):
            run_call(executor, Call("c", calls.raise_, "ENOSPC"))
        with pytest.raises(RunError, match="d: its worker process ended with exit code 3") as caught:
            run_call(executor, Call("d", calls.exit_with, 3))
        assert not hasattr(caught.value, "__notes__")

    def test_an_error_of_evolve_keeps_its_type_and_message(self, executor: Executor) -> None:
        failed = failure(executor, Call("a", calls.refuse, "too wide"))
        assert (failed.cause, failed.reason) == ("error", "too wide")
        assert type(failed.error) is MergeError

    def test_an_unforeseen_error_keeps_its_traceback(self, executor: Executor) -> None:
        failed = failure(executor, Call("a", calls.raise_lookup_error, None))
        assert (failed.cause, failed.reason) == ("bug", "LookupError: a first line")
        assert "in raise_lookup_error" in failed.trace

    @pytest.mark.parametrize(
        ("error", "cause"),
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
            ("EFBIG", "disk"),
            ("safetensors limit", "disk"),
            ("no number", "disk"),
            ("wrapped limit", "disk"),
            ("EACCES", "bug"),
            ("other system error", "bug"),
        ],
    )
    def test_causes_are_distinguished(self, executor: Executor, error: str, cause: str) -> None:
        assert failure(executor, Call("a", calls.raise_, error)).cause == cause

    def test_a_dead_worker_costs_only_its_call(self, executor: Executor) -> None:
        failed = failure(executor, Call("a", calls.kill_self, signal.SIGKILL))
        assert failed.cause == "died"
        assert "SIGKILL" in failed.reason
        failed = failure(executor, Call("b", calls.exit_with, 3))
        assert (failed.cause, failed.reason) == ("died", "its worker process ended with exit code 3")
        executor.submit(Call("c", calls.double, 4))
        assert wait(executor) == Done("c", 8)

    def test_a_worker_that_exceeds_the_file_size_limit_is_a_full_disk(self, executor: Executor, tmp_path: Path) -> None:
        failed = failure(executor, Call("a", calls.exceed_size_limit, tmp_path / "file"))
        assert (failed.cause, failed.error) == ("disk", None)
        assert "raise the limit of the file size (`ulimit -f`)" in failed.reason

    def test_a_worker_that_died_between_calls_is_replaced(self, executor: Executor) -> None:
        executor.submit(Call("a", calls.pid, None))
        first = wait(executor)
        assert isinstance(first, Done)
        os.kill(first.result, signal.SIGKILL)
        assert ends(first.result)
        executor.submit(Call("b", calls.double, 4))
        outcome = wait(executor)
        assert outcome == Done("b", 8) or (isinstance(outcome, Failed) and outcome.cause == "died")

    def test_the_death_of_a_worker_is_detected_while_its_children_hold_the_pipe(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        failed = failure(executor, Call("a", calls.die_with_child, tmp_path / "pid"))
        assert failed.cause == "died"
        assert ends(int((tmp_path / "pid").read_text()))

    def test_progress_is_reported(self, executor: Executor, reports: Reports) -> None:
        executor.submit(Call("a", calls.count, 50))
        assert isinstance(wait(executor), Done)
        assert reports[-1] == ("a", "counting", 50, 50)
        assert len(reports) <= 50

    def test_output_of_workers_goes_to_the_log(self, executor: Executor, tmp_path: Path, capfd: Any) -> None:
        executor.redirect(tmp_path / "log", tmp_path)
        executor.submit(Call("a", calls.print_line, "words to keep"))
        assert isinstance(wait(executor), Done)
        executor.redirect(tmp_path / "other", tmp_path)
        executor.submit(Call("b", calls.print_line, "words elsewhere"))
        assert isinstance(wait(executor), Done)
        executor.close()
        assert "words to keep" in (tmp_path / "log").read_text()
        assert "words elsewhere" in (tmp_path / "other").read_text()
        assert "words" not in "".join(capfd.readouterr())

    def test_a_failure_of_the_machine_counts_as_a_bug(self, executor: Executor) -> None:
        executor.submit(Call("a", calls.fail_to_read, None))
        outcome = wait(executor)
        assert isinstance(outcome, Failed)
        assert (outcome.cause, outcome.reason) == ("bug", "the checkpoint cannot be loaded")

    def test_workers_ignore_signals(self, executor: Executor, tmp_path: Path) -> None:
        executor.submit(Call("a", calls.signal_self, None))
        outcome = wait(executor)
        assert isinstance(outcome, Done)
        assert outcome.result == "still running"

    def test_temporary_files_go_to_the_scratch_folder(self, executor: Executor, tmp_path: Path) -> None:
        executor.redirect(tmp_path / "log", tmp_path)
        executor.submit(Call("a", calls.temporary_folder, None))
        outcome = wait(executor)
        assert isinstance(outcome, Done)
        assert outcome.result == str(tmp_path)

    def test_an_abandoned_call_has_no_outcome(self, executor: Executor, tmp_path: Path) -> None:
        executor.submit(Call("a", calls.write_pid_and_sleep, tmp_path / "pid"))
        pid = _read_pid(tmp_path / "pid")
        executor.abandon()
        assert ends(pid)
        assert executor.wait(0.0) is None
        executor.submit(Call("b", calls.double, 1))
        assert wait(executor) == Done("b", 2)

    @pytest.mark.parametrize("busy", [False, True])
    def test_closing_ends_the_worker(self, executor: Executor, tmp_path: Path, busy: bool) -> None:
        executor.submit(Call("a", calls.write_pid_and_sleep if busy else calls.write_pid, tmp_path / "pid"))
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
            "    progress, device = lambda *_: None, 'auto'\n"
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
        script = (
            f"import sys\nprogress, device = lambda *_: None, 'auto'\n{self.make}\nassert 'torch' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", script], check=True)


def _read_pid(path: Path) -> int:
    end = time.monotonic() + 30
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return int(path.read_text())
