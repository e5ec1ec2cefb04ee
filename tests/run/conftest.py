"""Fixtures for runs with fake engines: a family, drivers that tests can kill, and an uninterrupted run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from drive import Drivers
from fakes import write_family
from fast import fast_folder

from runs import Reference


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield from fast_folder(tmp_path_factory, "test")


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield from fast_folder(tmp_path_factory, "session")


@pytest.fixture(scope="session")
def drivers() -> Iterator[Drivers]:
    server = Drivers()
    yield server
    server.close()


@pytest.fixture(scope="session")
def config(session_folder: Path) -> Path:
    """Return a configuration that no test changes, like its models."""
    return write_family(session_folder / "family")


@pytest.fixture(scope="session")
def reference(session_folder: Path, drivers: Drivers, config: Path) -> Reference:
    """Return the uninterrupted run."""
    folder = session_folder / "reference"
    folder.mkdir()
    ended = drivers(folder / "run", config, EVOLVE_FAKE_TALLY=folder / "tally")
    assert ended.code == 0, ended.message
    return Reference.of(folder / "run", folder / "tally", ended.passed)
