"""Reads scores from lm-eval's results, and writes results and samples as lm-eval's command does."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolve.engines.protocols import TaskScore, TaskSpec, task_folder
from evolve.errors import EvaluationError, TaskError

__all__ = ["score_of", "write_results"]


def score_of(results: Mapping[str, Any], spec: TaskSpec) -> TaskScore:
    """Return the score of one task.

    Raises:
        TaskError: The task is a group without an aggregate for the metric.
        EvaluationError: The task has no such metric, or its value is not finite.
    """
    entry = results["results"][spec.task]
    if spec.metric not in entry:
        available = sorted(key for key in entry if "," in key and "_stderr," not in key)
        if spec.task in results.get("group_subtasks", {}):
            raise TaskError(
                f"evaluation: the group '{spec.task}' has no aggregate '{spec.metric}'; it has "
                f"{', '.join(available) or 'none: list its tasks instead'}"
            )
        raise EvaluationError(
            f"evaluation: task '{spec.task}' gave no metric '{spec.metric}'; it gave {', '.join(available) or 'none'}"
        )
    value = entry[spec.metric]
    if not _finite(value):
        raise EvaluationError(f"evaluation: '{spec.metric}' of task '{spec.task}' is {value}, not a finite number")
    name, _, kind = spec.metric.partition(",")
    stderr = entry.get(f"{name}_stderr,{kind}")
    return TaskScore(
        metric=spec.metric,
        value=float(value),
        stderr=float(stderr) if _finite(stderr) else None,
        samples=int(entry["sample_len"]),
    )


def write_results(results: Mapping[str, Any], folder: Path) -> None:
    """Write `results.json` and, for each task, `samples_<task>.jsonl`, in the form of lm-eval's own files."""
    from lm_eval.utils import handle_non_serializable, sanitize_list

    body = {key: value for key, value in results.items() if key != "samples"}
    text = json.dumps(body, indent=2, default=handle_non_serializable, ensure_ascii=False)
    (folder / "results.json").write_text(text, encoding="utf-8")
    for task, samples in results["samples"].items():
        with (folder / f"samples_{task_folder(task)}.jsonl").open("w", encoding="utf-8") as file:
            for sample in samples:
                row = {
                    **sample,
                    "resps": sanitize_list(sample["resps"]),
                    "filtered_resps": sanitize_list(sample["filtered_resps"]),
                    "arguments": {
                        f"gen_args_{i}": {f"arg_{j}": part for j, part in enumerate(parts)}
                        for i, parts in enumerate(sample["arguments"])
                    },
                    "target": str(sample["target"]),
                }
                file.write(json.dumps(row, default=handle_non_serializable, ensure_ascii=False) + "\n")


def _finite(value: Any) -> bool:
    import numpy as np

    return isinstance(value, int | float | np.number) and math.isfinite(value)
