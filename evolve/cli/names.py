"""Names on the command line: a run by its folder or by its name in `runs/`, and the completion of both."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import typer

from evolve.errors import InputError

__all__ = ["RUNS", "complete_models", "complete_runs", "expanded", "find_run"]

RUNS = Path("runs")
"""The folder of all runs, in the working directory."""

_JOURNAL = "journal.jsonl"


def expanded(text: str) -> Path:
    """Return a path of the command line, with the home folder for a leading `~`.

    Raises:
        InputError: There is no such user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise InputError(
            f"{text}: the home folder of {Path(text).parts[0]} is not known; give the whole path"
        ) from None


def find_run(name: str) -> Path:
    """Return the folder of a run.

    Args:
        name: The path of the folder, or the name of a run in `runs/`. A folder of the working directory with a journal
            comes first. If there is no such run, the path is returned unchanged.
    """
    path = expanded(name)
    in_runs = RUNS / path
    with suppress(OSError):  # a name that is too long; the command reports it
        if len(path.parts) == 1 and name != ".." and not (path / _JOURNAL).exists() and in_runs.is_dir():
            return in_runs
    return path


def complete_runs(incomplete: str) -> Iterable[str]:
    """Return the runs in `runs/` whose name, or whose path, begins like this; none with hidden characters."""
    journals = sorted(path for path in RUNS.glob(f"*/{_JOURNAL}") if str(path).isprintable())
    names = [form for journal in journals for form in (journal.parent.name, str(journal.parent))]
    return [name for name in names if name.startswith(incomplete) and ("/" in incomplete or "/" not in name)]


def complete_models(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    """Return the models of the run named before whose name begins like this; none if the run cannot be read."""
    from evolve.errors import EvolveError
    from evolve.run.folder import RunFolder

    run = ctx.params.get("run")
    with suppress(EvolveError, OSError):
        tree = RunFolder.open(find_run(str(run))).read_tree()
        return [model.name for model in tree.models if model.name.startswith(incomplete)]
    return []
