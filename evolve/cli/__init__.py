"""The command line, which combines all other packages."""

from __future__ import annotations

from evolve.cli.entry import main

__all__ = ["main"]
