"""The commands that do the work: `run`, `resume` and `check`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from evolve.cli.display import display
from evolve.cli.findings import findings_lines, refuse_full_disk
from evolve.cli.names import RUNS
from evolve.cli.output import say, show
from evolve.cli.streams import OutputLost
from evolve.config import Config, load_config
from evolve.engines import REAL
from evolve.errors import EvolveError, InputError, RunFolderError
from evolve.lineage import FamilyTree
from evolve.run.folder import RunFolder
from evolve.run.inputs import Fetch
from evolve.run.interrupts import Interrupted, raising_signals
from evolve.run.session import Finished, Session
from evolve.views import resume_line, summary_view
from evolve.views.text import command

__all__ = ["check_config", "resume_run", "run_config"]


def run_config(config: Path, run_dir: Path | None, overrides: list[str], *, force: bool, rehearsal: bool) -> None:
    """Start or resume the run of a configuration."""
    settings = load_config(config, overrides)
    folder, start = run_dir or RUNS / settings.name, _start(config, run_dir, overrides)
    with _naming(config):
        _drive(folder, start, lambda session: session.run(settings, folder), force=force, rehearsal=rehearsal)


def resume_run(folder: Path, *, force: bool) -> None:
    """Resume a run from its folder alone."""
    _drive(folder, None, lambda session: session.resume(folder), force=force)


def check_config(
    config: Path, overrides: list[str], *, offline: bool, download: bool, time: bool, rehearsal: bool
) -> None:
    """Validate configuration, models, tasks, data and disk, and print what the run will need."""
    if offline and download:
        raise InputError("--offline and --download exclude each other; give one of them")
    settings = load_config(config, overrides)
    fetch = Fetch(download=download, need_all=not offline)
    with _naming(config), display() as watching:
        try:
            session = Session(REAL, watching, rehearsal=rehearsal)
            with raising_signals():
                findings = session.check(settings, RUNS / settings.name, fetch, time=time)
        except Interrupted as interrupted:
            raise interrupted.with_advice("nothing was changed, start the check again") from None
    for line in findings_lines(findings, _start(config, None, overrides), RUNS):
        say(line)
    refuse_full_disk(findings, RUNS)


def _start(config: Path, run_dir: Path | None, overrides: list[str]) -> str:
    """Return the command that starts the run."""
    folder = [] if run_dir is None else ["--run-dir", str(run_dir)]
    changes = [word for override in overrides for word in ("--set", override)]
    return command("evolve", "run", str(config), *folder, *changes)


@contextmanager
def _naming(config: Path) -> Iterator[None]:
    """Prefix each line of an error that starts with a key of the configuration with the path of its file."""
    try:
        yield
    except InputError as error:
        if isinstance(error, RunFolderError):
            raise
        lines = str(error).split("\n")
        named = [f"{config}: {line}" if _is_about_a_key(line) else line for line in lines]
        if named == lines:
            raise
        raise type(error)("\n".join(named)) from error


def _is_about_a_key(line: str) -> bool:
    key = re.match("[a-z_]+", line)
    return key is not None and key[0] in Config.model_fields


def _drive(
    folder: Path, start: str | None, work: Callable[[Session], Finished], *, force: bool, rehearsal: bool = True
) -> None:
    """Run or resume in a session, and print a summary.

    Args:
        folder: The run folder.
        start: The command that starts the run; None if it can only be resumed.
        work: Calls a method of the session.
        force: As `Session.force`.
        rehearsal: As `Session.rehearsal`.
    """
    with display() as watching:
        before = _tree(folder)
        if before is not None:
            watching.show_position(before)
            if before.stop is None:
                watching.note(resume_line(before))
        try:
            with raising_signals():
                finished = work(Session(REAL, watching, force=force, rehearsal=rehearsal))
        except Interrupted as interrupted:
            raise interrupted.with_advice(_advice(folder, start)) from None
    with suppress(OutputLost):  # the run itself has succeeded
        _print_end(finished, folder)
    if finished.stop.reason == "failed":
        raise EvolveError(f"{folder}: {finished.stop.detail}; the log is {finished.folder.log}")


def _print_end(finished: Finished, folder: Path) -> None:
    """Print a summary of a run that has stopped."""
    if not finished.worked:
        say(f"The run in {folder} has finished already.")
        if finished.ignored:
            say(f"It stopped as {finished.stop.reason}; a changed {', '.join(finished.ignored)} does not continue it.")
    show(summary_view(finished.tree, folder=str(folder)))


def _tree(folder: Path) -> FamilyTree | None:
    """Return the tree of a run that has begun; None otherwise, since the session reports the error."""
    with suppress(EvolveError, OSError):
        return RunFolder.open(folder).read_tree()
    return None


def _advice(folder: Path, start: str | None) -> str:
    """Return the advice how to continue; a run that has not begun is started again."""
    if start is not None and _tree(folder) is None:
        return f"stopped before the run began; nothing was recorded, start it again by `{start}`"
    return f"nothing is lost, resume it by `{command('evolve', 'resume', str(folder))}`"
