"""Ctrl-C, SIGTERM and SIGHUP.

Before a run begins a signal raises an exception, which unwinds the work and removes its files (`raising_signals`).
During a run the first signal stops it at a safe point, and the second stops it at once (`Interrupts`). There the handler
only stores the signal: if it raised an exception, an artifact could be in place without its event.

A SIGHUP that is ignored, as under nohup, stays ignored.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from evolve.errors import EvolveError

__all__ = ["STOP_SIGNALS", "Interrupted", "Interrupts", "Stopped", "interruptible", "raising_signals"]

STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})

_Handler = Callable[[int, FrameType | None], None]


class Interrupted(EvolveError):
    """The user asked to stop; `exit_code` is that of the signal, 130, 143 or 129."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class Stopped(BaseException):
    """A signal while its handler raises; no `Exception`, so that nothing on the way handles it as a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def raising_signals() -> Iterator[None]:
    """Raise `Stopped` at a signal; it must be entered in the main thread.

    After the first one, only another Ctrl-C raises again: a closed terminal or a job manager sends several signals,
    and the work is being unwound already.
    """
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        del frame
        if not stopping or number == signal.SIGINT:
            stopping = True
            raise Stopped(number)

    before = _handle_signals(stop)
    try:
        yield
    finally:
        _restore(before)


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn a signal that was raised into `Interrupted`."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(signal.SIGINT) from None
    except Stopped as stopped:
        raise Interrupted(stopped.number) from None


class Interrupts:
    """A context manager that handles the signals during a run; it must be entered in the main thread.

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
        self._before = _handle_signals(self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _restore(self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._number is not None:
            try:
                self._on_second()
            finally:
                os._exit(128 + number)
        self._number = number


def _handle_signals(handler: _Handler) -> dict[int, Any]:
    """Set the handler of all signals, except of an ignored SIGHUP; return the handlers before."""
    numbers = [n for n in STOP_SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in numbers}


def _restore(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
