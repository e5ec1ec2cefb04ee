"""Runs with fake engines: a family, drivers that may be killed, and what is left of a run to compare."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from drive import Drivers
from fakes import write_family

from runs import Reference

_MEMORY = Path("/dev/shm")


def _fast_folder(factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """In memory where that is large enough: what syncing costs is not what these tests are about."""
    if not _MEMORY.is_dir() or shutil.disk_usage(_MEMORY).free < 2**29:
        yield factory.mktemp(name)
        return
    with tempfile.TemporaryDirectory(prefix=f"evolve-{name}-", dir=_MEMORY) as folder:
        yield Path(folder)


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield from _fast_folder(tmp_path_factory, "test")


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield from _fast_folder(tmp_path_factory, "session")


@pytest.fixture(scope="session")
def drivers() -> Iterator[Drivers]:
    server = Drivers()
    yield server
    server.close()


@pytest.fixture(scope="session")
def config(place: Path) -> Path:
    """A configuration; nobody changes it or its models."""
    return write_family(place / "family")


@pytest.fixture(scope="session")
def reference(place: Path, drivers: Drivers, config: Path) -> Reference:
    """The uninterrupted run."""
    folder = place / "reference"
    folder.mkdir()
    ended = drivers(folder / "run", config, EVOLVE_FAKE_TALLY=folder / "tally")
    assert ended.code == 0, ended.message
    return Reference.of(folder / "run", folder / "tally", ended.passed)
