"""All executors pass the conformance suite."""

from __future__ import annotations

import calls
import pytest
from executor_suite import ExecutorSuite

from evolve.run.executors import Call, Executor


class TestLocalExecutor(ExecutorSuite):
    make = "from evolve.run.executors import LocalExecutor\nexecutor = LocalExecutor(progress, device)"

    def test_a_call_for_several_gpus_is_refused(self, executor: Executor) -> None:
        with pytest.raises(ValueError, match="call a needs 2 GPUs"):
            executor.submit(Call("a", calls.return_device, None, gpus=2))
        assert executor.wait(0.0) is None
