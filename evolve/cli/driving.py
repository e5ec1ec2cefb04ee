"""The commands that do the work: `run`, `resume` and `check`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from evolve.cli.display import display
from evolve.config import load_config
from evolve.engines import REAL
from evolve.engines.protocols import TaskFacts
from evolve.errors import EvolveError
from evolve.run.interrupts import Interrupted
from evolve.run.preflight import Preflight
from evolve.run.session import Finished, Session, check
from evolve.views import summary_view
from evolve.views.numbers import size
from evolve.views.text import command

__all__ = ["check_config", "resume_run", "run_config"]


def run_config(config: Path, run_dir: Path | None, overrides: list[str], *, force: bool) -> None:
    """Start or go on with the run of a configuration."""
    settings = load_config(config, overrides)
    folder = run_dir or Path("runs") / settings.name
    _drive(folder, force, lambda session: session.run(settings, folder))


def resume_run(folder: Path, *, force: bool) -> None:
    """Go on with a run from its folder alone."""
    _drive(folder, force, lambda session: session.resume(folder))


def check_config(config: Path, overrides: list[str]) -> None:
    """Check a configuration and say what its run will ask for."""
    settings = load_config(config, overrides)
    with display() as watching:
        found, facts = check(settings, REAL, watching)
    console = Console()
    for line in _findings(found, facts):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _drive(folder: Path, force: bool, work: Callable[[Session], Finished]) -> None:  # noqa: FBT001
    with display() as watching:
        try:
            finished = work(Session(REAL, watching, force=force))
        except Interrupted as interrupted:
            raise _with_hint(interrupted, folder) from None
    console = Console()
    if not finished.worked:
        console.print(f"The run in {folder} is finished already.", highlight=False, soft_wrap=True, markup=False)
    console.print(summary_view(finished.tree, folder=str(folder)))
    if finished.stop.reason == "failed":
        raise EvolveError(f"{folder}: {finished.stop.detail}; the log is {finished.folder.log}")


def _with_hint(interrupted: Interrupted, folder: Path) -> EvolveError:
    error = EvolveError(f"{interrupted}; nothing is lost, go on with `{command('evolve', 'resume', str(folder))}`")
    error.exit_code = interrupted.exit_code
    return error


def _merges_at_most(found: Preflight) -> str:
    needs, foundations = found.needs, len(found.config.foundation_models)
    later = found.config.strategy.max_generations - 1
    return (
        f"merges and evaluations: {needs.first} in generation 1, at most {needs.later} in each of the {later} that may "
        f"follow; and {foundations} evaluations of foundations"
    )


def _findings(found: Preflight, facts: Mapping[str, TaskFacts]) -> list[str]:
    """The check's good news, in lines."""
    config, needs = found.config, found.needs
    lines = []
    for name, source in found.sources.items():
        layout = found.layouts[name]
        commit = f" at commit {source.revision}" if source.revision else ""
        kind, layers = layout.setting("model_type"), layout.setting("num_hidden_layers")
        lines.append(f"{name}: {source.path}{commit}, {kind}, {layers} layers, {size(sum(layout.files.values()))}")
    for task in config.evaluation.tasks:
        fact = facts[task.task]
        count = "all documents of the hub's data" if fact.documents is None else f"{fact.documents} documents"
        shots = "the task's own number of" if task.num_fewshot is None else task.num_fewshot
        lines.append(f"{task.task}: {task.metric}, {shots} shots, {count}")
    free = shutil.disk_usage(Path.cwd()).free
    lines += [
        f"recipes: {', '.join(found.templates)} (accepted by mergekit)",
        _merges_at_most(found),
        f"disk: {size(needs.checkpoint)} a child, at most {size(needs.total)} in all; {size(free)} are free here",
    ]
    if free < needs.total:
        lines.append("warning: a run of all generations does not fit; it would stop when the disk is full, resumably")
    lines.append("All is well; start it with `evolve run`.")
    return lines
