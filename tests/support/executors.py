"""Executors without a worker, for tests that kill the driver or change the order of outcomes."""

from __future__ import annotations

import random
from pathlib import Path

from evolve.run.executors import Call, Outcome
from evolve.run.executors.base import Progress
from evolve.run.executors.worker import perform


class InlineExecutor:
    """An executor that runs a call in this process, in `wait`."""

    capacity = 1

    def __init__(self, progress: Progress, device: str = "cpu") -> None:
        self._progress = progress
        self._device = device
        self._calls: list[Call] = []

    def redirect(self, log: Path, scratch: Path) -> None:
        pass

    def submit(self, call: Call) -> None:
        if len(self._calls) >= self.capacity:
            raise ValueError(f"{self.capacity} calls are in flight")
        self._calls.append(call)

    def wait(self, timeout: float) -> Outcome | None:
        if not self._calls:
            return None
        call = self._calls.pop(self._choose(len(self._calls)))
        return perform(call, lambda words, done, total: self._progress(call.id, words, done, total), self._device)

    def abandon(self) -> None:
        self._calls.clear()

    def close(self) -> None:
        self._calls.clear()

    def _choose(self, count: int) -> int:
        return 0


class ShuffledExecutor(InlineExecutor):
    """An executor that takes several calls and runs them in a seeded random order."""

    def __init__(self, progress: Progress, capacity: int, seed: int) -> None:
        super().__init__(progress)
        self.capacity = capacity
        self._draw = random.Random(seed)

    def _choose(self, count: int) -> int:
        return self._draw.randrange(count)
