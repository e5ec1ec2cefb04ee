"""Named points at which a test can kill this process.

The points surround every durable step. They do nothing unless the environment variable `EVOLVE_FAULT` names one, as
`<point>` or `<point>:<n>`. Then the process kills itself with SIGKILL when it passes the point for the n-th time. `*`
stands for all points together.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

__all__ = ["ANY", "CROSS_DEVICE_POINTS", "POINTS", "fault_point", "passed"]

POINTS = (
    "lock.acquired",
    "folder.created",
    "journal.before_write",
    "journal.after_write",
    "journal.after_fsync",
    "replace.before_write",
    "replace.after_write",
    "replace.after_fsync",
    "replace.after_rename",
    "publish.before_fsync",
    "publish.after_fsync",
    "publish.after_rename",
    "remove.after_rename",
    "store.before_rename",
    "store.after_rename",
    "step.before_call",
    "step.after_call",
)
"""The points that a run on one file system passes."""

CROSS_DEVICE_POINTS = ("move.before_copy", "move.after_file", "move.after_fsync", "move.after_rename")
"""The points that `publish` also passes where the target lies on another file system."""

ANY = "*"

passed: Counter[str] = Counter()
"""Number of times that this process has passed each point, and all points together."""


def fault_point(name: str) -> None:
    """Kill this process if `EVOLVE_FAULT` names this point."""
    passed[name] += 1
    passed[ANY] += 1
    wanted, _, nth = os.environ.get("EVOLVE_FAULT", "").partition(":")
    if wanted in {name, ANY} and passed[wanted] == int(nth or 1):
        os.kill(os.getpid(), signal.SIGKILL)
