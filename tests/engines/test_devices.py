"""Names of devices, and processes that see one card only."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from evolve.engines.devices import device_name, restrict_to
from evolve.errors import ConfigError

RESTRICTED = """
import json, os, sys
from types import SimpleNamespace
from evolve.engines.devices import device_name, restrict_to
from evolve.errors import ConfigError

configured, asked, cards = json.loads(sys.argv[1])
returned, early = restrict_to(configured), "torch" in sys.modules
visible = os.environ.get("CUDA_VISIBLE_DEVICES")
seen = cards if visible is None else [card for card in visible.split(",") if card in cards]
cuda = SimpleNamespace(device_count=lambda: len(seen), is_available=lambda: bool(seen))
sys.modules["torch"] = SimpleNamespace(cuda=cuda)
try:
    name = device_name(asked)
except ConfigError as error:
    name = str(error)
print(json.dumps([returned, early, visible, name]))
"""


def restricted(configured: str, *, visible: str | None, asked: str | None = None, cards: str = "01234567") -> list:
    """Return the result of `restrict_to`, the visible GPUs and the name of a device, in a process with fake GPUs."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    argument = json.dumps([configured, asked or configured, list(cards)])
    command = [sys.executable, "-c", RESTRICTED, argument]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    returned, early, seen, name = json.loads(done.stdout)
    assert not early  # torch is not imported before the cards are hidden
    return [returned, seen, name]


def test_auto_is_the_gpu_where_there_is_one():
    assert device_name("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert device_name("cpu") == "cpu"


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "meta", "cpu:1", ""])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(ConfigError, match="is unknown; it must be auto, cpu, cuda or cuda:<number>"):
        device_name(device)
    assert restrict_to(device) == device
    assert restrict_to("cpu") == "cpu"


def test_a_missing_device_is_refused():
    with pytest.raises(ConfigError, match=r"device = cuda:99: is missing, torch finds \d+ CUDA devices; give auto"):
        device_name("cuda:99")


@pytest.mark.parametrize(
    ("device", "visible", "seen"),
    [
        ("cuda:5", None, "5"),
        ("cuda:0", None, "0"),
        ("cuda:1", "2,3", "3"),
        ("cuda:0", " 4 , 3", "4"),
        ("cuda:0", "GPU-8932f937", "GPU-8932f937"),
    ],
)
def test_only_the_chosen_card_is_visible(device, visible, seen):
    assert restricted(device, visible=visible, cards=["0", "3", "4", "5", "GPU-8932f937"]) == ["cuda", seen, "cuda"]


@pytest.mark.parametrize(
    ("device", "visible"),
    [("cuda:2", "2,3"), ("cuda:0", ""), ("cuda:0", "-1"), ("cuda:1", "2,-1,3"), ("cuda:2", "2,-1,3"), ("cuda:9", None)],
)
def test_a_card_that_is_missing_is_called_by_its_configured_name(device, visible):
    returned, seen, message = restricted(device, visible=visible)
    assert returned == "cuda"
    assert seen == ("" if visible is not None else "9")
    assert message == f"device = {device}: is missing, CUDA has no such card; give auto or cpu"


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize("visible", [None, "2,3"])
def test_other_devices_change_nothing(device, visible):
    assert restricted(device, visible=visible) == [device, visible, "cuda"]


def test_other_names_still_count_within_the_restricted_process():
    assert restricted("cuda:5", visible=None, asked="auto")[-1] == "cuda"
    assert restricted("cuda:5", visible=None, asked="cuda:0")[-1] == "cuda:0"
    assert restricted("cuda:5", visible=None, asked="cuda:1")[-1].startswith(
        "device = cuda:1: is missing, torch finds 1"
    )
