"""The lock of a run folder: one driver at a time, and a message that names the holder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from drive import Drivers

from evolve.errors import RunFolderError
from evolve.run.journal import Journal
from evolve.run.lock import Holder, driver_lock, live_holder
from runs import SUPPORT, Reference

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


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"host": 1}',
        '{"host": "a", "pid": "x", "started": ""}',
        '{"host": "a", "pid": Infinity, "started": ""}',
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_a_damaged_holder_file_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "driver.json").write_text(text)
    assert live_holder(tmp_path) is None
    with driver_lock(tmp_path):
        pass


@pytest.mark.parametrize(
    "script", ["rm {run}/.lock", "rm {run}/.lock {run}/driver.json", "rm {run}/.lock; touch {run}/.lock"]
)
def test_a_second_driver_is_refused_although_the_lock_was_deleted(
    script: str, tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    """The second driver is started by the engine of the first."""
    run = tmp_path / "runs" / "run"
    second = f"{script.format(run=run)}; env -u EVOLVE_FAKE {sys.executable} {SUPPORT}/fake_evolve.py resume {run}"
    outputs = f"> {tmp_path}/out 2>&1; echo $? > {tmp_path}/code"
    ended = drivers(run, config, EVOLVE_FAKE=f"evaluate:model-1-2:run={second} {outputs}:1:{tmp_path}/count")
    assert ended.code == 0, ended.message
    assert (tmp_path / "code").read_text() == "2\n"
    assert f"{run}: the run is being driven by " in (tmp_path / "out").read_text()
    reference.check(run)


def test_the_holder_is_known_although_the_lock_was_deleted(tmp_path: Path) -> None:
    with driver_lock(tmp_path) as holder, Journal(tmp_path / "journal.jsonl"):
        (tmp_path / ".lock").unlink()
        assert live_holder(tmp_path) == holder
        with pytest.raises(RunFolderError, match="the run is being driven by"), driver_lock(tmp_path):
            pass
        with pytest.raises(RunFolderError, match=r"journal\.jsonl: another process writes it"):
            Journal(tmp_path / "journal.jsonl")
        assert live_holder(tmp_path) == holder
    with Journal(tmp_path / "journal.jsonl"):
        pass


def test_a_file_system_without_locks_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with Journal(tmp_path / "journal.jsonl"):
        pass


@pytest.mark.parametrize("name", [".lock", "driver.json"])
def test_a_named_pipe_blocks_no_reader(tmp_path: Path, name: str) -> None:
    _write_holder(tmp_path, socket.gethostname(), 7)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    assert live_holder(tmp_path) is None
