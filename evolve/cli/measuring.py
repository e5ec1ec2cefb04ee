"""The command `kinship`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import fsum
from pathlib import Path

from rich.table import Table
from rich.text import Text

from evolve.cli.display import display
from evolve.cli.output import print_json, say, show
from evolve.cli.working import carry_out
from evolve.engines import REAL
from evolve.engines.checkpoints import differences, read_layout
from evolve.engines.devices import DEVICES
from evolve.engines.protocols import KinshipJob, KinshipResult
from evolve.engines.sources import resolve
from evolve.errors import InputError, ModelError
from evolve.run.executors import LocalExecutor
from evolve.views.text import View, plain

__all__ = ["measure_kinship"]


def measure_kinship(models: Sequence[str], base: str, metric: str, device: str, *, as_json: bool) -> None:
    """Measure all pairs of some models in one pass and show them."""
    if len(models) < 2:
        raise ModelError(f"{models[0]}: a kinship is one of two models at least, beside --base; name another")
    origin = _folder(base)
    folders = {name: _folder(model) for name, model in zip(_names(models), models, strict=True)}
    _check(origin, folders)
    if not DEVICES.fullmatch(device):
        raise InputError(f"--device {device}: it must be auto, cpu, cuda or cuda:<number>")
    job = KinshipJob(base=origin, models=folders, pairs=tuple(combinations(folders, 2)), device=device)
    with display(stderr=True) as watching:
        executor = LocalExecutor(watching.working)
        try:
            result: KinshipResult = carry_out(executor, "kinship", REAL.measure, job)
        finally:
            executor.close()
    metrics = ["pcc", "cs", "ed"] if metric == "all" else [metric]
    if as_json:
        print_json(_data(result, metrics))
    else:
        _print_table(result, metrics)


def _check(base: Path, models: Mapping[str, Path]) -> None:
    """All models must be whole and must descend from the base; ModelError where one does not."""
    try:
        layout = read_layout(base)
        for folder in models.values():
            if folder.samefile(base):
                raise ModelError(f"{folder}: is the base itself, and so has no kinship to others; leave it out")
            difference = differences(layout, read_layout(folder))
            if difference is not None:
                raise ModelError(f"{difference}; give models that were tuned from the base model")
    except OSError as error:
        raise ModelError(f"{error.filename}: cannot be read ({error.strerror}); make it readable") from None


def _data(result: KinshipResult, metrics: Sequence[str]) -> dict[str, object]:
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
    return {"pairs": pairs, "mean": _means(result, metrics), "seconds": result.seconds}


def _means(result: KinshipResult, metrics: Sequence[str]) -> dict[str, float]:
    """Kinship of the whole set: the mean over its pairs."""
    return {metric: fsum(getattr(pair, metric) for pair in result.pairs) / len(result.pairs) for metric in metrics}


def _print_table(result: KinshipResult, metrics: Sequence[str]) -> None:
    table = Table("", "", *metrics, box=None, pad_edge=False)
    for pair in result.pairs:
        names = (Text(plain(name)) for name in (pair.a, pair.b))
        table.add_row(*names, *(f"{getattr(pair, metric):.6f}" for metric in metrics))
    if len(result.pairs) > 1:
        table.add_row("mean", "", *(f"{value:.6f}" for value in _means(result, metrics).values()))
    show(View(table))
    for pair in result.pairs:
        for tensor, rows, share in pair.left_out:
            say(f"{pair.a} and {pair.b}: left out {rows} rows of {tensor} ({100 * share:.3f}% of the parameters)")


def _folder(model: str) -> Path:
    path = Path(model).expanduser()
    return resolve(str(path.absolute()) if path.exists() else model).path


def _names(models: Sequence[str]) -> list[str]:
    """Short names: the last part of each path or hub id, with a number where several are equal."""
    shorts = [_short(model) for model in models]
    return [
        short if shorts.count(short) == 1 else f"{short}#{shorts[:number].count(short) + 1}"
        for number, short in enumerate(shorts)
    ]


def _short(model: str) -> str:
    path = Path(model).expanduser()
    return path.resolve().name if path.exists() else path.name
