"""Folders for temporary files are removed at their end, or by the next process after a SIGKILL."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from evolve.errors import DiskError, RunError
from evolve.run.scratch import scratch_folder

HOLD = """
import sys
from evolve.run.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "file").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty folder the system's folder for temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def _holder(temporary: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_ends_with_its_block(temporary: Path) -> None:
    with scratch_folder() as folder:
        assert folder.parent == temporary
        (folder / "in" / "it").mkdir(parents=True)
    assert not list(temporary.iterdir())
    with pytest.raises(LookupError), scratch_folder():
        raise LookupError
    assert not list(temporary.iterdir())


def test_only_folders_of_dead_processes_are_removed(temporary: Path) -> None:
    living, kept = _holder(temporary)
    killed, left = _holder(temporary)
    foreign = temporary / "evolve-other-host-x"
    foreign.mkdir()
    link = temporary / f"{left.name}-link"
    link.symlink_to(foreign)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=30)
    assert (left / "file").exists()
    with scratch_folder() as own, scratch_folder() as other:
        assert set(temporary.iterdir()) == {kept, foreign, link, own, other}
        assert (kept / "file").exists()
    living.communicate(timeout=30)
    assert set(temporary.iterdir()) == {foreign, link}


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, DiskError), (errno.EROFS, RunError)])
def test_a_folder_that_cannot_be_made_names_the_fix(
    number: int, kind: type[RunError], temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "mkdtemp", fail)
    with pytest.raises(kind, match="set TMPDIR to a folder with room") as caught, scratch_folder():
        pass
    assert type(caught.value) is kind
