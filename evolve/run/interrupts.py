"""Ctrl-C and SIGTERM: the first signal stops the run at a safe point, the second stops it at once.

The handler only stores the signal. If it raised an exception, an artifact could be in place without its event.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from evolve.errors import EvolveError

__all__ = ["Interrupted", "Interrupts"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(EvolveError):
    """The user asked to stop; `exit_code` is that of the signal, 130 or 143."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class Interrupts:
    """A context manager that handles both signals; it must be entered in the main thread.

    Args:
        on_first: Called once by `check` after the first signal; tells the user that the run will stop.
        on_second: Called by the second signal before the process ends; kills the workers.
    """

    def __init__(self, on_first: Callable[[], None], on_second: Callable[[], None]) -> None:
        self._on_first = on_first
        self._on_second = on_second
        self._number: int | None = None
        self._announced = False
        self._before: dict[int, Any] = {}

    def check(self, *, abandon: bool = True) -> None:
        """Call `on_first` once after a signal, then raise `Interrupted`.

        Args:
            abandon: Whether the work in flight may be abandoned; if not, nothing is raised.

        Raises:
            Interrupted: A signal was received.
        """
        if self._number is None:
            return
        if not self._announced:
            self._announced = True
            self._on_first()
        if abandon:
            raise Interrupted(self._number)

    def __enter__(self) -> Interrupts:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._number is not None:
            try:
                self._on_second()
            finally:
                os._exit(128 + number)
        self._number = number
