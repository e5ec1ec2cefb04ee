"""The command line: the only place that puts the parts together."""

from __future__ import annotations

from evolve.cli.app import main

__all__ = ["main"]
