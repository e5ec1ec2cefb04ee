"""The commands that do the work: `run`, `resume` and `check`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from evolve.cli.display import display
from evolve.cli.output import say, show
from evolve.config import Config, load_config
from evolve.engines import REAL
from evolve.engines.protocols import TaskFacts
from evolve.errors import EvolveError, InputError, RunFolderError
from evolve.run.folder import RunFolder
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
    with _naming(config):
        _drive(folder, force, lambda session: session.run(settings, folder))


def resume_run(folder: Path, *, force: bool) -> None:
    """Go on with a run from its folder alone."""
    _drive(folder, force, lambda session: session.resume(folder))


def check_config(config: Path, overrides: list[str]) -> None:
    """Check a configuration and say what its run will ask for."""
    settings = load_config(config, overrides)
    with _naming(config), display() as watching:
        found, facts = check(settings, REAL, watching)
    for line in _findings(found, facts):
        say(line)


@contextmanager
def _naming(config: Path) -> Iterator[None]:
    """Put the configuration's file before what is said of one of its keys."""
    try:
        yield
    except InputError as error:
        key = re.match("[a-z_]+", str(error))
        if key is None or key[0] not in Config.model_fields or isinstance(error, RunFolderError):
            raise
        raise type(error)(f"{config}: {error}") from error


def _drive(folder: Path, force: bool, work: Callable[[Session], Finished]) -> None:  # noqa: FBT001
    with display() as watching:
        with suppress(EvolveError, OSError):  # there is no run yet, or none that can be read, as the session will say
            watching.stands(RunFolder.open(folder).read_tree())
        try:
            finished = work(Session(REAL, watching, force=force))
        except Interrupted as interrupted:
            raise _with_hint(interrupted, folder) from None
    if not finished.worked:
        say(f"The run in {folder} is finished already.")
    show(summary_view(finished.tree, folder=str(folder)))
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
    """What the check found, in lines, with all that it could not look at."""
    config = found.config
    lines = []
    for name, source in found.sources.items():
        layout = found.layouts[name]
        commit = f" at commit {source.revision}" if source.revision else ""
        adapter = f" with the adapter {source.adapter}" if source.adapter else ""
        pickled = ", pickled weights that the run converts" if source.pickled else ""
        kind, layers = layout.setting("model_type"), layout.setting("num_hidden_layers")
        bytes_ = size(sum(layout.files.values()))
        lines.append(f"{name}: {source.path}{adapter}{commit}, {kind}, {layers} layers, {bytes_}{pickled}")
    for task in config.evaluation.tasks:
        fact = facts[task.task]
        count = "all documents of the hub's data" if fact.documents is None else f"{fact.documents} documents"
        shots = "the task's own number of" if task.num_fewshot is None else task.num_fewshot
        lines.append(f"{task.task}: {task.metric}, {shots} shots, {count}")
    all_tried = not (found.missing or found.pickled)
    tried = "accepted by mergekit" if all_tried else "understood by mergekit, not tried on all models"
    lines += [f"recipes: {', '.join(found.templates)} ({tried})", _merges_at_most(found), *_disk(found)]
    unchecked = [*found.missing.values()]
    unchecked += [f"the pickled weights of {name}, which only the run opens" for name in found.pickled]
    unchecked += [f"the data of {name}, which come from the hub" for name, fact in facts.items() if fact.needs_hub]
    lines += [f"not checked: {what}" for what in unchecked]
    if found.missing:
        lines.append("All that could be checked is well; the run itself needs those models.")
    else:
        lines.append("All is well; start it with `evolve run`.")
    return lines


def _disk(found: Preflight) -> Iterator[str]:
    needs, free = found.needs, shutil.disk_usage(Path.cwd()).free
    if not needs.checkpoint:
        yield f"disk: unknown without the models; {size(free)} are free here"
        return
    yield f"disk: {size(needs.checkpoint)} a child, at most {size(needs.total)} in all; {size(free)} are free here"
    if free < needs.total:
        yield "warning: a run of all generations does not fit; it would stop when the disk is full, resumably"
