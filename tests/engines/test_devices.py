from __future__ import annotations

import pytest
import torch

from evolve.engines import inspect
from evolve.engines.devices import device_name
from evolve.engines.protocols import InspectJob
from evolve.errors import ConfigError


def test_auto_is_the_gpu_where_there_is_one():
    assert device_name("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert device_name("cpu") == "cpu"


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "meta", "cpu:1", ""])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(ConfigError, match="is unknown; it must be auto, cpu, cuda or cuda:<number>"):
        device_name(device)


def test_a_device_that_is_not_there_is_found_before_the_work():
    with pytest.raises(ConfigError, match=r"device = cuda:99: is not there, torch sees \d+ CUDA devices; give auto"):
        inspect(InspectJob(recipes={}, tasks=(), device="cuda:99"), lambda *_: None)
