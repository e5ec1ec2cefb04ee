"""The first signal is stored, the second ends the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from executors import InlineExecutor
from fakes import FAKE

from evolve.config import load_config
from evolve.run.folder import RunFolder
from evolve.run.interrupts import Interrupted, Interrupts, raising_signals
from evolve.run.observer import Silent
from evolve.run.session import Session
from runs import journal

CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.mark.parametrize(("number", "code"), CODES)
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


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_signal_unwinds_the_work(number: signal.Signals, code: int) -> None:
    done: list[str] = []

    def work() -> None:
        try:
            os.kill(os.getpid(), number)
            done.append("went on")
        except Exception:  # noqa: BLE001 - no handler of failures catches a signal
            done.append("caught")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # a second signal does not disturb the unwinding
            done.append("unwound")

    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught, raising_signals():
        work()
    assert caught.value.exit_code == code
    assert done == ["unwound"]
    assert signal.getsignal(number) == before


def test_any_error_that_comes_of_a_signal_is_an_interruption() -> None:
    """Modules that are being imported may turn the exception of a signal into another one."""

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException:  # noqa: BLE001 - as Cython does
            raise AttributeError("a partially initialized module") from None

    with pytest.raises(Interrupted, match="SIGTERM"), raising_signals():
        work()
    with pytest.raises(AttributeError), raising_signals():
        raise AttributeError("without a signal")


HANDLERS = {
    "raising": "with raising_signals():",
    "exiting": "with exiting_signals():",
    "during a run": "with Interrupts(lambda: None, lambda: None) as run:",
}


@pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS)
def test_an_ignored_hangup_stays_ignored(handler: str) -> None:
    script = (
        "import os, signal\nfrom evolve.run.interrupts import *\n"
        f"signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{handler}\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n    getattr(locals().get('run'), 'check', print)()\n"
        "    print('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "alive" in done.stdout


def test_a_command_with_nothing_to_clean_up_ends_with_one_message() -> None:
    script = (
        "import os, signal\nfrom evolve.run.interrupts import exiting_signals\n"
        "with exiting_signals():\n    os.kill(os.getpid(), signal.SIGTERM)\n    print('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "evolve: interrupted by SIGTERM\n")


def test_a_signal_while_the_run_folder_is_made_waits_for_the_first_event(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = RunFolder.create

    def create_and_signal(folder: RunFolder) -> None:
        create(folder)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunFolder, "create", create_and_signal)
    with pytest.raises(Interrupted, match="SIGTERM"), raising_signals():
        Session(FAKE, Silent(), executors=InlineExecutor).run(load_config(config), tmp_path / "run")
    assert [event["type"] for event in journal(tmp_path / "run")] == ["run_started"]
