"""Fixtures of the command, of a family of tiny files and of a finished run."""

from __future__ import annotations

from tests.cli.conftest import command, fake_family, finished_run, no_engine, no_work, run_copy

__all__ = ["command", "fake_family", "finished_run", "no_engine", "no_work", "run_copy"]
