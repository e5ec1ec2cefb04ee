"""Which device an engine works on."""

from __future__ import annotations

import re

from evolve.errors import ConfigError

__all__ = ["DEVICES", "device_name"]

DEVICES = re.compile(r"auto|cpu|cuda(:\d+)?")
"""What a device may be called."""


def device_name(device: str) -> str:
    """The torch name of a device, `auto` being resolved: CUDA where there is one, else the CPU.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:<number>`.

    Raises:
        ConfigError: There is no such device here.
    """
    import torch

    if not DEVICES.fullmatch(device):
        raise ConfigError(f"device = {device}: is unknown; it must be auto, cpu, cuda or cuda:<number>")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = device.partition(":")
    count = torch.cuda.device_count()
    if kind == "cuda" and int(number or 0) >= count:
        raise ConfigError(f"device = {device}: is not there, torch sees {count} CUDA devices; give auto or cpu")
    return device
