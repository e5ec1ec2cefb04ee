"""All executors pass the conformance suite."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import calls
import pytest
from executor_suite import ExecutorSuite

from evolve.run.executors import Call, Executor
from evolve.run.executors.worker import serve


class TestLocalExecutor(ExecutorSuite):
    make = "from evolve.run.executors import LocalExecutor\nexecutor = LocalExecutor(progress, device)"

    def test_a_call_for_several_gpus_is_refused(self, executor: Executor) -> None:
        with pytest.raises(ValueError, match="call a needs 2 GPUs"):
            executor.submit(Call("a", calls.return_device, None, gpus=2))
        assert executor.wait(0.0) is None


def test_a_worker_ends_quietly_when_the_driver_closes_the_pipe_with_answers_unread(tmp_path: Path) -> None:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    worker = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, "cpu"))
    worker.start()
    theirs.close()
    ours.send((tmp_path / "run.log", tmp_path))
    ours.send(Call("a", calls.return_device, None))
    assert ours.poll(60)
    ours.close()
    worker.join(60)
    assert (worker.exitcode, (tmp_path / "run.log").read_text()) == (0, "")
