"""The command `kinship`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from math import fsum
from pathlib import Path

from rich.console import Console
from rich.table import Table

from evolve.cli.display import display
from evolve.cli.working import carry_out
from evolve.engines import REAL
from evolve.engines.checkpoints import differences, read_layout
from evolve.engines.protocols import KinshipJob, KinshipResult
from evolve.engines.sources import resolve
from evolve.errors import ModelError
from evolve.run.executors import LocalExecutor

__all__ = ["measure_kinship"]


def measure_kinship(models: Sequence[str], base: str, metric: str, device: str, *, as_json: bool) -> None:
    """Measure all pairs of some models in one pass and show them."""
    if len(models) < 2:
        raise ModelError("kinship needs at least two models beside --base")
    folders = {name: _folder(model) for name, model in zip(_names(models), models, strict=True)}
    origin = _folder(base)
    layout = read_layout(origin)
    for folder in folders.values():
        difference = differences(layout, read_layout(folder))
        if difference is not None:
            raise ModelError(f"{difference}; all models must descend from the base")
    job = KinshipJob(base=origin, models=folders, pairs=tuple(combinations(folders, 2)), device=device)
    with display() as watching:
        executor = LocalExecutor(watching.working)
        try:
            result: KinshipResult = carry_out(executor, "kinship", REAL.measure, job)
        finally:
            executor.close()
    metrics = ["pcc", "cs", "ed"] if metric == "all" else [metric]
    if as_json:
        Console().out(json.dumps(_data(result, metrics), indent=2), highlight=False)
    else:
        _print_table(result, metrics)


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
        table.add_row(pair.a, pair.b, *(f"{getattr(pair, metric):.6f}" for metric in metrics))
    if len(result.pairs) > 1:
        table.add_row("mean", "", *(f"{value:.6f}" for value in _means(result, metrics).values()))
    console = Console()
    console.print(table)
    for pair in result.pairs:
        for tensor, rows, share in pair.left_out:
            words = f"{pair.a} and {pair.b}: left out {rows} rows of {tensor} ({100 * share:.3f}% of the parameters)"
            console.print(words, highlight=False, soft_wrap=True, markup=False)


def _folder(model: str) -> Path:
    path = Path(model).expanduser()
    return resolve(str(path.absolute()) if path.exists() else model).path


def _names(models: Sequence[str]) -> list[str]:
    """Short names: the last part of each path, with a number where two are equal."""
    names: list[str] = []
    for model in models:
        short = model.rstrip("/").rsplit("/", 1)[-1]
        count = sum(name == short or name.startswith(f"{short}#") for name in names)
        names.append(short if not count else f"{short}#{count + 1}")
    return names
