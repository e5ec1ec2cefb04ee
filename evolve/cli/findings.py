"""The findings of `evolve check` as lines of text."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from evolve.engines.sources import LocatedModel
from evolve.errors import DiskError
from evolve.run.inputs import Checked, Timing
from evolve.run.session import Findings
from evolve.views.numbers import duration, size

__all__ = ["findings_lines", "refuse_full_disk"]


def findings_lines(findings: Findings, start: str, runs: Path) -> list[str]:
    """Return lines with the findings, warnings, skipped checks and problems, and the command to start the run.

    Args:
        findings: The findings of `check`.
        start: The command that starts the run.
        runs: The folder that will hold the run.
    """
    checked = findings.checked
    problems = list(_problems(checked, runs))
    lines = [*_models(checked), *_tasks(checked), *_recipes(checked), *_merges(checked), *_disk(checked, runs)]
    lines.append(f"rehearsal: {findings.rehearsed or 'none (--no-rehearsal)'}")
    lines += _timing(findings.timing)
    lines += [f"warning: {line}" for line in _warnings(checked)]
    lines += [f"warning: scores of {task} are not shared: {why}" for task, why in findings.unshared.items()]
    skipped = findings.rehearsed.skipped if findings.rehearsed is not None else ()
    lines += [f"not checked: {line}" for line in (*_not_checked(checked), *skipped)]
    lines += [f"problem: {line}" for line in problems]
    return [*lines, _conclusion(checked, problems, start)]


def refuse_full_disk(findings: Findings, runs: Path) -> None:
    """Raise DiskError if not even one child fits the disk."""
    needed, free = findings.checked.needs.checkpoint, _free(runs)
    if free < needed:
        raise DiskError(f"{runs}: a child needs {size(needed)}, and {size(free)} are free; make room")


def _conclusion(checked: Checked, problems: list[str], start: str) -> str:
    missing = checked.located.missing
    if any(model.bytes is None for model in missing.values()):
        return f"Nothing else is wrong, but the run needs the models that cannot be reached. Start it by: {start}"
    if problems:
        return f"Nothing else is wrong. The run can start, and be resumed after the problem is solved: {start}"
    return f"Ready: {start}"


def _models(checked: Checked) -> Iterator[str]:
    for name, model in checked.located.models.items():
        layout = checked.layouts[name]
        layers = f", {checked.layers} layers" if checked.layers is not None else ""
        kind, weights = layout.setting("model_type"), size(sum(layout.files.values()))
        yield f"{name}: {model.path}{_details(model)}, {kind}{layers}, {weights}{_pickled(model)}"
    for name, missing in checked.located.missing.items():
        if missing.bytes is not None:
            yield f"{name}: {missing.reason}; the run downloads {size(missing.bytes)} (`evolve check --download` does)"


def _details(model: LocatedModel) -> str:
    adapter = f" with the adapter {model.adapter}" if model.adapter else ""
    return adapter + (f" at commit {model.revision}" if model.revision else "")


def _pickled(model: LocatedModel) -> str:
    return ", pickled weights that the run converts" if model.pickled else ""


def _tasks(checked: Checked) -> Iterator[str]:
    for task in checked.config.evaluation.tasks:
        fact = checked.tasks[task.task]
        count = "all documents of the data on the Hub" if fact.documents is None else f"{fact.documents} documents"
        shots = "the task's own number of" if task.num_fewshot is None else task.num_fewshot
        yield f"{task.task}: {task.metric}, {shots} shots, {count}"


def _recipes(checked: Checked) -> Iterator[str]:
    result = "every pair of foundations planned by mergekit" if checked.planned else "parsed by mergekit"
    for name in checked.templates:
        matches = checked.filters.get(name, ())
        counts = ", ".join(f"{match.filter} {match.tensors}" for match in matches)
        yield f"recipe {name}: {result}" + (f"; tensors matched by its filters: {counts}" if counts else "")


def _merges(checked: Checked) -> Iterator[str]:
    needs, foundations = checked.needs, len(checked.config.foundation_models)
    later = checked.config.strategy.max_generations - 1
    yield (
        f"merges and evaluations: {needs.first} in generation 1, at most {needs.later} in each of at most {later} "
        f"later generations; and {foundations} evaluations of foundations"
    )


def _disk(checked: Checked, runs: Path) -> Iterator[str]:
    needs, free = checked.needs, _free(runs)
    if not needs.checkpoint:
        yield f"disk: unknown without the models; {size(free)} are free"
    else:
        yield f"disk: {size(needs.checkpoint)} a child, at most {size(needs.total)} in all; {size(free)} are free"


def _problems(checked: Checked, runs: Path) -> Iterator[str]:
    needs, free = checked.needs, _free(runs)
    if free < needs.checkpoint:
        yield f"not even one child fits the disk: it needs {size(needs.checkpoint)}, and {size(free)} are free"
    elif free < needs.total:
        yield (
            f"a run of all generations does not fit the disk: it needs {size(needs.total)}, and {size(free)} are free; "
            "make room, or lower strategy.max_generations"
        )


def _free(runs: Path) -> int:
    """Return the free bytes on the disk that will hold the run."""
    folder = next(path for path in (runs.absolute(), *runs.absolute().parents) if path.exists())
    return shutil.disk_usage(folder).free


def _timing(timing: Timing | None) -> Iterator[str]:
    if timing is None:
        return
    load = duration(timing.load_seconds)
    yield f"time: {timing.model} scored {timing.documents} documents; loading a model took {load}"
    if timing.run_seconds is None:
        yield "time: an evaluation cannot be estimated until the data of all tasks are downloaded"
        return
    yield (
        f"time: about {duration(timing.evaluation_seconds)} an evaluation, at most {duration(timing.run_seconds)} for "
        f"{timing.evaluations} evaluations"
    )


def _warnings(checked: Checked) -> Iterator[str]:
    for name, matches in checked.filters.items():
        for match in matches:
            if not match.tensors:
                yield (
                    f"recipe {name}: the filter {match.filter!r} of {match.parameter} matches no tensor of these "
                    "models, so it has no effect"
                )
    for setting, values in checked.differing_settings.items():
        listed = ", ".join(f"{name} {value}" for name, value in values.items())
        yield f"{setting} differs ({listed}); a child takes the value of its first parent"


def _not_checked(checked: Checked) -> Iterator[str]:
    for missing in checked.located.missing.values():
        yield missing.reason
    for name in checked.located.pickled:
        yield f"the pickled weights of {name}, which only the run reads"
    for name, fact in checked.tasks.items():
        if fact.documents is None:
            yield f"the data of {name}, which are still on the Hub (`evolve check --download` fetches them)"
