"""The executors, each under the suite that all of them share."""

from __future__ import annotations

from executor_suite import ExecutorSuite


class TestLocalExecutor(ExecutorSuite):
    make = "from evolve.run.executors import LocalExecutor\nexecutor = LocalExecutor(progress)"
