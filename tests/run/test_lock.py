"""The lock of a run folder: one driver at a time, and a message that names the holder."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evolve.errors import RunFolderError
from evolve.run.lock import Holder, driver_lock, live_holder

_HOLD = """
import sys
from pathlib import Path
from evolve.run.lock import driver_lock
with driver_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def _write_holder(folder: Path, host: str, pid: int) -> None:
    (folder / "driver.json").write_text(json.dumps({"host": host, "pid": pid, "started": "2026-01-01T00:00:00+00:00"}))


def test_a_second_driver_is_refused_with_the_name_of_the_holder(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    started = json.loads((tmp_path / "driver.json").read_text())["started"]
    with pytest.raises(RunFolderError) as caught, driver_lock(tmp_path, force=True):
        pass
    assert f"process {other.pid} on {socket.gethostname()}, started {started}" in str(caught.value)
    assert live_holder(tmp_path) == Holder(socket.gethostname(), other.pid, started)


def test_a_lock_ends_with_its_process(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.kill()
    other.wait()
    assert (tmp_path / "driver.json").exists()
    assert live_holder(tmp_path) is None
    with driver_lock(tmp_path) as holder:
        assert holder.pid == os.getpid()
        assert live_holder(tmp_path) == holder
    assert live_holder(tmp_path) is None
    assert not (tmp_path / "driver.json").exists()


def test_a_reused_process_number_does_not_hold_the_lock(tmp_path: Path) -> None:
    with driver_lock(tmp_path):
        pass
    _write_holder(tmp_path, socket.gethostname(), os.getpid())
    assert live_holder(tmp_path) is None
    with driver_lock(tmp_path):
        pass


def test_a_lock_of_another_host_holds_unless_forced(tmp_path: Path) -> None:
    _write_holder(tmp_path, "elsewhere", 7)
    with pytest.raises(RunFolderError, match=r"process 7 on elsewhere, started 2026.*--force"), driver_lock(tmp_path):
        pass
    assert live_holder(tmp_path) == Holder("elsewhere", 7, "2026-01-01T00:00:00+00:00")
    with driver_lock(tmp_path, force=True) as holder:
        assert holder.host == socket.gethostname()
    with driver_lock(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 1}', '{"host": "a", "pid": "x", "started": ""}'])
def test_a_damaged_holder_file_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "driver.json").write_text(text)
    assert live_holder(tmp_path) is None
    with driver_lock(tmp_path):
        pass
