"""The first signal is stored, the second ends the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from evolve.run.interrupts import Interrupted, Interrupts


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_raised_only_if_work_may_be_abandoned(number: signal.Signals, code: int) -> None:
    called: list[str] = []
    before = signal.getsignal(number)
    with Interrupts(lambda: called.append("first"), lambda: called.append("second")) as interrupts:
        interrupts.check()
        os.kill(os.getpid(), number)
        interrupts.check(abandon=False)
        interrupts.check(abandon=False)
        assert called == ["first"]
        with pytest.raises(Interrupted) as caught:
            interrupts.check()
    assert caught.value.exit_code == code
    assert called == ["first"]
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("second", ["print('ended', flush=True)", "1 / 0"])
def test_the_second_signal_ends_the_process_even_if_its_callback_fails(second: str) -> None:
    script = (
        "import os, signal\nfrom evolve.run.interrupts import Interrupts\n"
        f"def end(): {second}\n"
        "with Interrupts(lambda: None, end):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n    os.kill(os.getpid(), signal.SIGINT)\n    print('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "alive" not in done.stdout
