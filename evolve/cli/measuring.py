"""The command `kinship`: measure the kinship of models outside a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from itertools import combinations
from math import fsum
from pathlib import Path

from rich.text import Text

from evolve.cli.display import display
from evolve.cli.names import expanded
from evolve.cli.output import print_json, say, show
from evolve.config import METRICS
from evolve.engines import REAL
from evolve.engines.checkpoints import differences, read_layout
from evolve.engines.devices import DEVICES
from evolve.engines.protocols import KinshipJob, KinshipResult
from evolve.engines.sources import resolve
from evolve.errors import InputError, ModelError, unreadable
from evolve.run.executors import Call, LocalExecutor, run_call
from evolve.run.interrupts import raising_signals
from evolve.views.text import Table, View, plain

__all__ = ["measure_kinship"]


def measure_kinship(models: Sequence[str], base: str, metric: str, device: str, *, as_json: bool) -> None:
    """Measure the kinship of all pairs of some models in one pass, and print it.

    Args:
        models: Folders or Hub ids.
        base: Folder or Hub id of their base model.
        metric: One metric to print, or `all`.
        device: `auto`, `cpu` or a CUDA device.
        as_json: Print JSON instead of a table.
    """
    if metric not in METRICS and metric != "all":
        raise InputError(f"--metric {metric}: is not a metric; it must be {', '.join(METRICS)} or all")
    if not DEVICES.fullmatch(device):
        raise InputError(f"--device {device}: it must be auto, cpu, cuda or cuda:<number>")
    if len(models) < 2:
        raise ModelError(f"{models[0]}: kinship is measured between models; give at least two, and --base")
    origin = _folder(base)
    folders = dict(zip(_labels(models), map(_folder, models), strict=True))
    _check(origin, folders)
    result = _measure(KinshipJob(base=origin, models=folders, pairs=tuple(combinations(folders, 2))), device)
    metrics = list(METRICS) if metric == "all" else [metric]
    if as_json:
        print_json(_data(folders, result, metrics))
    else:
        _print_table(result, metrics)


def _measure(job: KinshipJob, device: str) -> KinshipResult:
    """Measure in a worker process, as a run does."""
    with (
        raising_signals(),
        display(stderr=True) as watching,
        closing(LocalExecutor(watching.working, device=device)) as executor,
    ):
        result: KinshipResult = run_call(executor, Call("kinship", REAL.measure, job, gpus=1))
    return result


def _check(base: Path, models: Mapping[str, Path]) -> None:
    """Refuse a model that is incomplete, or that has another architecture than the base model."""
    try:
        layout = read_layout(base)
        for folder in models.values():
            if folder.samefile(base):
                raise ModelError(f"{folder}: is the base model itself, which has no kinship; leave it out")
            difference = differences(layout, read_layout(folder))
            if difference is not None:
                raise ModelError(f"{difference}; give models that were tuned from the base model")
    except OSError as error:
        raise ModelError(unreadable(error)) from None


def _data(folders: Mapping[str, Path], result: KinshipResult, metrics: Sequence[str]) -> dict[str, object]:
    """Return the result as JSON values; `share` is a part of all parameters, in 0..1."""
    pairs = [
        {
            "a": pair.a,
            "b": pair.b,
            **{metric: getattr(pair, metric) for metric in metrics},
            "parameters": pair.parameters,
            "left_out": [{"tensor": t, "rows": rows, "share": share} for t, rows, share in pair.left_out],
        }
        for pair in result.pairs
    ]
    models = {label: str(folder) for label, folder in folders.items()}
    return {"models": models, "pairs": pairs, "mean": _means(result, metrics), "seconds": result.seconds}


def _means(result: KinshipResult, metrics: Sequence[str]) -> dict[str, float]:
    """Return the kinship of a set of models: the mean over its pairs."""
    return {metric: fsum(getattr(pair, metric) for pair in result.pairs) / len(result.pairs) for metric in metrics}


def _print_table(result: KinshipResult, metrics: Sequence[str]) -> None:
    lines = [_row(f"{p.a} and {p.b}", [getattr(p, metric) for metric in metrics]) for p in result.pairs]
    footer = _row("mean", _means(result, metrics).values()) if len(lines) > 1 else ()
    headings = [Text(""), *map(Text, metrics)]
    show(View(Table(headings, lines, footer=footer, right=range(1, len(headings)))))
    for pair in result.pairs:
        for tensor, rows, share in pair.left_out:
            say(f"{pair.a} and {pair.b}: left out {rows} rows of {tensor} ({100 * share:.3f} % of the parameters)")


def _row(name: str, values: Iterable[float]) -> list[Text]:
    return [Text(plain(name)), *(Text(f"{value:.6f}") for value in values)]


def _folder(model: str) -> Path:
    path = _path(model)
    return resolve(str(path) if path.exists() else model).path


def _labels(models: Sequence[str]) -> list[str]:
    """Return a label for each model: the end of its path or Hub id, as short as tells it from the others."""
    paths = [_path(model) for model in models]
    for path, model in zip(paths, models, strict=True):
        if paths.count(path) > 1:
            raise ModelError(f"{model}: this model is given twice; give each model once")
    return [_label(path, [other for other in paths if other != path]) for path in paths]


def _path(model: str) -> Path:
    path = expanded(model)
    return path.resolve() if path.exists() else path


def _label(path: Path, others: Sequence[Path]) -> str:
    for length in range(1, len(path.parts)):
        if all(other.parts[-length:] != path.parts[-length:] for other in others):
            return "/".join(path.parts[-length:])
    return str(path)
