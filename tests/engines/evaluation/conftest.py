"""Fixtures; these tests run offline, on the CPU, with one thread."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import _world

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def _own_dataset_cache(tmp_path_factory) -> Iterator[None]:
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return _world.make_model(tmp_path_factory.mktemp("model") / "a", seed=0)


@pytest.fixture(scope="session")
def other_model(tmp_path_factory) -> Path:
    return _world.make_model(tmp_path_factory.mktemp("model") / "b", seed=1)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    return _world.make_data(tmp_path_factory.mktemp("data"))
