"""Limits of the machine (plain reading and writing, copies on and to a GPU), and the memory of a process.

Needs Linux: memory and page cache are read from /proc.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

__all__ = ["copy_rates", "drop_caches", "peak_memory", "read_all", "write_all"]

_BLOCK = 8 << 20  # bytes
_EVERY_S = 0.02


def drop_caches() -> bool:
    """Empty the page cache, so that files are read from the disk; return whether this is permitted."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1")
    except OSError:
        return False
    return True


def read_all(files: Iterable[Path]) -> tuple[float, int]:
    """Read files from beginning to end into one buffer; return seconds and bytes."""
    began, size, buffer = time.perf_counter(), 0, bytearray(_BLOCK)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                size += count
    return time.perf_counter() - began, size


def write_all(path: Path, size: int) -> tuple[float, float]:
    """Write, sync and delete a file of random bytes; return the seconds until it is written and until it is synced."""
    block = memoryview(os.urandom(_BLOCK))
    began, left = time.perf_counter(), size
    try:
        with path.open("wb", buffering=0) as file:
            while left:
                left -= file.write(block[:left])
            written = time.perf_counter() - began
            os.fsync(file.fileno())
            return written, time.perf_counter() - began
    finally:
        path.unlink()


def copy_rates(size: int = 1 << 30, turns: int = 10) -> dict[str, float]:
    """Return GB/s of copies from pinned memory to the GPU, and on the GPU (read and written); empty without a GPU."""
    if not torch.cuda.is_available():
        return {}
    host = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    one, other = (torch.empty(size, dtype=torch.uint8, device="cuda") for _ in range(2))
    rates = {}
    for name, source, moved in (("host_to_device", host, size), ("device_to_device", other, 2 * size)):
        one.copy_(source, non_blocking=True)
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(turns):
            one.copy_(source, non_blocking=True)
        torch.cuda.synchronize()
        rates[name] = turns * moved / (time.perf_counter() - began) / 1e9
    return rates


@contextmanager
def peak_memory() -> Iterator[dict[str, int]]:
    """Fill a dictionary, at the end of the block, with the peak memory of this process in bytes.

    `before` is its resident memory at the beginning. Of what it had at most, `own` is memory that nothing else holds,
    and `mapped` is pages of mapped files, which the system takes back when it needs them; they are sampled, and their
    peaks may lie apart. `cuda` is what torch's allocator held.
    """
    found = {"before": _status("VmRSS"), "own": 0, "mapped": 0}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_EVERY_S):
            found["own"] = max(found["own"], _status("RssAnon") + _status("RssShmem"))
            found["mapped"] = max(found["mapped"], _status("RssFile"))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()
        found["resident"] = _status("VmHWM")
        if torch.cuda.is_available():
            found["cuda"] = torch.cuda.max_memory_allocated()


def _status(key: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{key}:")[2].split(maxsplit=1)[0]) << 10
