"""Full disks, tested on a small real file system: the run stops with a message and resumes when there is room."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from drive import Drivers

from evolve.errors import DiskError
from evolve.lineage import ModelFailed
from evolve.run.durable import explained
from evolve.run.journal import Journal, read_journal
from runs import Reference, calls_begun, events, finished_work


class Disk:
    """A file system in memory with a variable size."""

    def __init__(self, place: Path, size: str) -> None:
        self.place = place
        place.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("mounting is not allowed here")

    def resize(self, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", self.place], check=True)

    def fill(self, *, leave: int = 0) -> None:
        free = os.statvfs(self.place)
        (self.place / "filler").write_bytes(b"x" * (free.f_bavail * free.f_frsize - leave))

    def clear(self) -> None:
        (self.place / "filler").unlink()

    def unmount(self) -> None:
        subprocess.run(["umount", self.place], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "disk", "80m")
    yield disk
    disk.unmount()


def test_a_lack_of_space_is_detected_before_a_merge(
    disk: Disk, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run = disk.place / "run"
    disk.resize("1m")
    for _ in range(2):
        ended = drivers(run, config)
        assert ended.code == 1
        assert "model-1-1 needs 0.07 GB and 0.00 GB are free; make room" in ended.message
        assert f"evolve resume {run}" in ended.message
        assert not list(run.glob("models/*"))
        assert not list(run.glob("recipes/*"))
    disk.resize("80m")
    assert drivers(run, config).code == 0
    reference.check(run)


@pytest.mark.parametrize(
    "when",
    [
        "merge:model-1-2",  # the worker has begun to write the checkpoint
        "evaluate:A",  # the driver has to publish scores
        "evaluate:model-1-3",
        "measure:kinship",  # the driver has to append to the journal
        "measure:A-model-1-1",
    ],
)
def test_a_run_resumes_after_a_disk_filled_up_while_writing(
    *, when: str, tmp_path: Path, disk: Disk, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run, tally = disk.place / "run", tmp_path / "tally"
    ended = drivers(run, config, EVOLVE_FAKE=f"{when}:fill={disk.place}/filler", EVOLVE_FAKE_TALLY=tally)
    assert ended.code == 1, ended.message
    assert "make room, then run" in ended.message
    assert f"evolve resume {run}" in ended.message
    assert not events(run, "step_retried")
    assert not events(run, "model_failed")
    assert drivers(run).code == 1  # still full
    disk.clear()
    done = finished_work(run)
    tally.unlink()
    assert drivers(run, EVOLVE_FAKE_TALLY=tally).code == 0
    assert not done & set(calls_begun(tally))
    reference.check(run)


def test_a_full_disk_at_the_start_is_an_error(disk: Disk, drivers: Drivers, config: Path, reference: Reference) -> None:
    disk.fill()
    ended = drivers(disk.place / "run", config)
    assert ended.code == 1
    assert "make room" in ended.message
    disk.clear()
    assert drivers(disk.place / "run", config).code == 0
    reference.check(disk.place / "run")


def test_the_command_reports_a_full_disk_in_one_line(disk: Disk, drivers: Drivers, config: Path) -> None:
    run = disk.place / "run"
    done = drivers.command("run", config, "--run-dir", run, EVOLVE_FAKE=f"evaluate:B:fill={disk.place}/filler")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("evolve: ")
    assert "No space left on device; make room" in done.stderr


def test_an_event_is_written_completely_or_not_at_all(disk: Disk) -> None:
    path = disk.place / "journal.jsonl"
    event = ModelFailed(model="m", step="merge", reason="x" * 9000, attempts=1)  # more than a page of the disk
    with Journal(path) as journal:
        journal.append(event)
        before = path.read_bytes()
        disk.fill(leave=4096)
        with pytest.raises(DiskError), explained(disk.place):
            journal.append(event)
        assert path.read_bytes() == before
        disk.clear()
        journal.append(event)
    assert len(read_journal(path)) == 2


def test_a_read_only_disk_is_an_error(disk: Disk, drivers: Drivers, config: Path) -> None:
    run = disk.place / "run"
    assert drivers(run, config, EVOLVE_FAULT="journal.after_fsync:9").code == -9
    subprocess.run(["mount", "-o", "remount,ro", disk.place], check=True)
    ended = drivers(disk.place / "new", config)
    assert ended.code == 2
    assert "not writable" in ended.message
    ended = drivers(run)
    assert ended.code == 1
    assert os.strerror(errno.EROFS) in ended.message


# ----------------------------------------------------------------------------------------------- limit of the file size


@pytest.mark.parametrize(
    ("when", "limit"),
    [("evaluate:A", 100), ("evaluate:B", 4000), ("merge:model-1-2", 200), ("measure:A-model-1-1", 16_000)],
)
def test_a_driver_that_reaches_the_file_size_limit_stops_and_resumes(
    *, when: str, limit: int, tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run, tally = tmp_path / "beside" / "run", tmp_path / "tally"
    ended = drivers(run, config, EVOLVE_FAKE=f"{when}:limit={limit}", EVOLVE_FAKE_TALLY=tally)
    assert ended.code == 1, ended.message
    assert f"raise the limit of the file size (`ulimit -f`), then run `evolve resume {run}`" in ended.message
    assert not events(run, "step_retried")
    assert not events(run, "model_failed")
    done = finished_work(run)
    tally.unlink()
    assert drivers(run, EVOLVE_FAKE_TALLY=tally).code == 0
    assert not done & set(calls_begun(tally))
    reference.check(run)


@pytest.mark.parametrize("when", ["evaluate:A", "merge:model-1-2", "evaluate:model-1-3"])
def test_a_worker_that_reaches_the_file_size_limit_costs_no_attempt(
    *, when: str, tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run = tmp_path / "beside" / "run"
    done = drivers.command("run", config, "--run-dir", run, EVOLVE_FAKE=f"{when}:limit=10")
    assert done.returncode == 1, done.stderr
    assert "File too large" in done.stderr
    assert f"raise the limit of the file size (`ulimit -f`), then run `evolve resume {run}`" in done.stderr
    assert not events(run, "step_retried")
    assert not events(run, "model_failed")
    assert drivers(run).code == 0
    reference.check(run)
