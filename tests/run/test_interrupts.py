"""The first signal is noted, the second ends the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from evolve.run.interrupts import Interrupted, Interrupts


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_is_raised_only_where_it_may(number: signal.Signals, code: int) -> None:
    told: list[str] = []
    before = signal.getsignal(number)
    with Interrupts(lambda: told.append("first"), lambda: told.append("second")) as interrupts:
        interrupts.check()
        os.kill(os.getpid(), number)
        interrupts.check(abandon=False)
        interrupts.check(abandon=False)
        assert told == ["first"]
        with pytest.raises(Interrupted) as caught:
            interrupts.check()
    assert caught.value.exit_code == code
    assert told == ["first"]
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("second", ["print('ended', flush=True)", "1 / 0"])
def test_the_second_ends_the_process_whatever_happens(second: str) -> None:
    script = (
        "import os, signal\nfrom evolve.run.interrupts import Interrupts\n"
        f"def end(): {second}\n"
        "with Interrupts(lambda: None, end):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n    os.kill(os.getpid(), signal.SIGINT)\n    print('went on')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "went on" not in done.stdout
