"""Writes the value of each item of a task, for metrics that are means over items."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evolve.engines.protocols import ITEM_COLUMNS, TaskSpec
from evolve.parquet import parquet_bytes

__all__ = ["not_a_mean", "write_items"]

_log = logging.getLogger("evolve.engines.evaluation")


def not_a_mean(tasks: Mapping[str, Any], metric: str) -> str | None:
    """Return why a metric is not lm-eval's plain mean over the items of each of its tasks; None if it is.

    Args:
        tasks: lm-eval's task objects by name.
        metric: The metric with its filter.
    """
    from lm_eval.api.metrics import mean

    name, _, kind = metric.partition(",")
    for task_name, task in tasks.items():
        # lm-eval takes the mean where a task names no aggregation.
        aggregation = task.aggregation().get(name, mean)
        if aggregation is not mean:
            how = getattr(aggregation, "__name__", type(aggregation).__name__)
            return f"lm-eval aggregates '{name}' of the task '{task_name}' by {how}, not by the mean of its items"
        if kind not in {each.name for each in getattr(task, "_filters", ())}:
            return f"the task '{task_name}' has no filter '{kind}'"
    return None


def write_items(file: Path, results: Mapping[str, Any], tasks: Mapping[str, Any], spec: TaskSpec) -> None:
    """Write the value of each item as a Parquet file; no file if the score is not the mean of its items' values.

    Args:
        file: The file, with the columns `ITEM_COLUMNS`.
        results: lm-eval's results, with samples.
        tasks: The task objects of that call by name.
        spec: The task of the job.
    """
    import pyarrow as pa

    problem = not_a_mean(tasks, spec.metric)
    columns: dict[str, list[Any]] = {name: [] for name in ITEM_COLUMNS}
    for name in tasks if problem is None else ():
        kind = spec.metric.partition(",")[2]
        samples = [sample for sample in results["samples"][name] if sample["filter"] == kind]
        values = _values(samples, results["results"][name], spec.metric)
        if values is None:
            problem = f"the score of the task '{name}' is not the mean of one number for each item"
            break
        columns["task"] += [name] * len(samples)
        columns["item"] += [sample["doc_id"] for sample in samples]
        columns["value"] += values
        columns["doc_hash"] += [sample["doc_hash"] for sample in samples]
    if problem is not None:
        _log.info("%s of %s has no values of items: %s", spec.metric, spec.task, problem)
        return
    arrays = {name: pa.array(columns[name], pa.type_for_alias(kind)) for name, kind in ITEM_COLUMNS.items()}
    file.write_bytes(parquet_bytes(pa.table(arrays)))


def _values(samples: Sequence[Mapping[str, Any]], entry: Mapping[str, Any], metric: str) -> list[float] | None:
    """Return the values of a metric by item, or None if lm-eval's score is not exactly their mean."""
    import numpy as np
    from lm_eval.api.metrics import mean

    found = [sample.get(metric.partition(",")[0]) for sample in samples]
    if not all(isinstance(value, bool | int | float | np.bool_ | np.integer) for value in found):
        return None
    values = [float(value) for value in found if value is not None]
    if not values or not all(map(math.isfinite, values)) or mean(values) != entry.get(metric):
        return None
    return values
