"""Folders for tests that sync much."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_MEMORY = Path("/dev/shm")


def fast_folder(factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """Yield a folder in memory if it is large enough, because syncing to a disk is slow."""
    if not _MEMORY.is_dir() or shutil.disk_usage(_MEMORY).free < 2**29:
        yield factory.mktemp(name)
        return
    with tempfile.TemporaryDirectory(prefix=f"evolve-{name}-", dir=_MEMORY) as folder:
        yield Path(folder)
