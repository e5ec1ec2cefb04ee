"""Which device an engine computes on."""

from __future__ import annotations

import os
import re
from itertools import takewhile

from evolve.errors import ConfigError

__all__ = ["DEVICES", "device_name", "restrict_to"]

DEVICES = re.compile(r"auto|cpu|cuda(:\d+)?")
"""The names that a device can have in a configuration."""

_VISIBLE = "CUDA_VISIBLE_DEVICES"

_restricted_to: str | None = None
"""The configured name of the only card that this process sees; set by `restrict_to`."""


def restrict_to(device: str) -> str:
    """Hide all CUDA cards but one from this process, and return the name that the card then has in it.

    Libraries that choose a card themselves, such as vLLM, then use the right one. Call it once in a process, before
    torch is imported. The number of the card counts within the cards that CUDA_VISIBLE_DEVICES names, if it is set.

    Args:
        device: A name that `DEVICES` matches. `auto`, `cuda` and `cpu` change nothing and are returned as they are.
    """
    global _restricted_to  # noqa: PLW0603 - a property of the process, as its environment is
    if ":" not in device or not DEVICES.fullmatch(device):
        return device
    number = int(device.partition(":")[2])
    cards = [str(number)] * (number + 1)
    if _VISIBLE in os.environ:
        entries = (entry.strip() for entry in os.environ[_VISIBLE].split(","))
        cards = list(takewhile(lambda entry: entry and not entry.startswith("-"), entries))  # CUDA stops there, too
    os.environ[_VISIBLE] = cards[number] if number < len(cards) else ""
    _restricted_to = device
    return "cuda"


def device_name(device: str) -> str:
    """Return torch's name of a device in this process. `auto` is CUDA where there is a card, otherwise the CPU.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:<number>`, as configured.

    Raises:
        ConfigError: The name is unknown, or there is no such device.
    """
    import torch

    if not DEVICES.fullmatch(device):
        raise ConfigError(f"device = {device}: is unknown; it must be auto, cpu, cuda or cuda:<number>")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    name = "cuda" if device == _restricted_to else device
    kind, _, number = name.partition(":")
    count = torch.cuda.device_count()
    if kind == "cuda" and int(number or 0) >= count:
        found = "CUDA has no such card" if device == _restricted_to else f"torch finds {count} CUDA devices"
        raise ConfigError(f"device = {device}: is missing, {found}; give auto or cpu")
    return name
