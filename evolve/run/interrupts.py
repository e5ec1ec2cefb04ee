"""Ctrl-C, SIGTERM and SIGHUP.

A command that has nothing to clean up ends at once (`exiting_signals`). Before a run begins a signal raises an
exception, which unwinds the work and removes its files (`raising_signals`). During a run the first signal stops it at a
safe point, and the second stops it at once (`Interrupts`). There the handler only stores the signal: if it raised an
exception, an artifact could be in place without its event.

A SIGHUP that is ignored, as under nohup, stays ignored.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

from evolve.errors import EvolveError

__all__ = ["STOP_SIGNALS", "Interrupted", "Interrupts", "exiting_signals", "raising_signals"]

STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})

_Handler = Callable[[int, FrameType | None], None]


class Interrupted(EvolveError):
    """The user asked to stop; `exit_code` is that of the signal, 130, 143 or 129."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = 128 + number

    def with_advice(self, advice: str) -> EvolveError:
        """Return an error that also says what to do next."""
        error = EvolveError(f"{self}; {advice}")
        error.exit_code = self.exit_code
        return error


class _Stopped(BaseException):
    """A signal; no `Exception`, so that nothing on the way handles it as a failure of the work."""


@contextmanager
def exiting_signals() -> Iterator[None]:
    """End the process at a signal, with one message; for the time in which there is nothing to clean up.

    It must be entered in the main thread, like the other context managers. An exception is not raised: some modules
    that are being imported would swallow it.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        with suppress(OSError):
            os.write(2, f"evolve: {Interrupted(number)}\n".encode())
        os._exit(128 + number)

    before = _handle_signals(leave)
    try:
        yield
    finally:
        _restore(before)


@contextmanager
def raising_signals() -> Iterator[None]:
    """Unwind the work at a signal, so that its temporary files are removed, then raise `Interrupted`.

    After the first signal only another Ctrl-C has an effect: a closed terminal or a job manager may send several.
    """
    stopped: int | None = None

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        del frame
        if stopped is None or number == signal.SIGINT:
            stopped = number
            raise _Stopped

    before = _handle_signals(stop)
    try:
        yield
    except BaseException:
        if stopped is None:
            raise
        raise Interrupted(stopped) from None  # whatever came of the signal
    finally:
        _restore(before)


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
