"""Claims on scores, so that two runs that share a score store do not compute the same score at the same time."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import filelock

__all__ = ["Claim", "claim"]

_LOG = logging.getLogger("evolve.run")


class Claim:
    """The right to compute some scores, until it is released or the process ends."""

    def __init__(self, locks: Iterable[filelock.BaseFileLock]) -> None:
        self._locks = tuple(locks)

    def release(self) -> None:
        """Let others compute what is still missing."""
        for lock in self._locks:
            lock.release()


def claim(folder: Path, keys: Iterable[str]) -> Claim | None:
    """Claim all scores of these keys; return None, and claim none, if another run has one of them.

    A score that cannot be locked, as on a file system without locks, counts as claimed: at worst it is computed twice.

    Args:
        folder: The folder of the locks; it is made.
        keys: Keys of scores.
    """
    held: list[filelock.BaseFileLock] = []
    for key in sorted(keys):
        lock = filelock.FileLock(folder / f"{key.replace('/', '-')}.lock", timeout=0)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except filelock.Timeout:
            Claim(held).release()
            return None
        except (OSError, NotImplementedError) as error:  # the latter: no locks on this file system
            _LOG.warning("%s: cannot be locked (%s), so another run may compute the same score", folder, error)
        else:
            held.append(lock)
    return Claim(held)
