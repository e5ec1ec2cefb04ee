"""Measure the overhead of the driver: a run with fake engines, whose own work takes hardly any time.

Seven foundations, all pairs of them and two more generations make about 30 models. Each engine call is timed in the
worker. The rest of the wall time is overhead: planning, the journal and the tree with their syncs, publishing
checkpoints, and the pipe to the worker, whose share is given separately. The start-up times come first: of the
command, of the heavy imports that a worker makes once, and of a run until its first call has begun.

    python benchmarks/overhead.py --foundations 7 --json figures.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from fakes import FAKE, write_family

from evolve.config import load_config
from evolve.engines.protocols import Report
from evolve.lineage import Event, FamilyTree, ModelEvaluated
from evolve.run.executors import Call, Done, LocalExecutor, Outcome, Progress
from evolve.run.observer import Silent
from evolve.run.session import Session

NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
STARTS = {
    "bare python": ["-c", "pass"],
    "evolve --help": ["-m", "evolve", "--help"],
    "imports for merging": ["-c", "import mergekit.merge"],
    "imports for evaluation": ["-c", "import lm_eval, lm_eval.models.huggingface"],
}


def timed(function: Callable[..., Any], job: Any, report: Report, **device: str) -> tuple[Any, float, float]:
    """Return the result of an engine, and when it began and ended by the clock that all processes share."""
    began = time.monotonic()
    result = function(job, report, **device)
    return result, began, time.monotonic()


class TimingExecutor(LocalExecutor):
    """A local executor that records when each call was submitted, began, ended, and was received."""

    def __init__(self, progress: Progress, device: str) -> None:
        super().__init__(progress, device)
        self.calls: list[tuple[float, float, float, float]] = []
        self._submitted = 0.0

    def submit(self, call: Call) -> None:
        """Begin a call and time it."""
        self._submitted = time.monotonic()
        super().submit(replace(call, function=partial(timed, call.function)))

    def wait(self, timeout: float) -> Outcome | None:
        """Return the outcome without its times."""
        outcome = super().wait(timeout)
        if not isinstance(outcome, Done):
            return outcome
        result, began, ended = outcome.result
        self.calls.append((self._submitted, began, ended, time.monotonic()))
        return Done(outcome.id, result)


class Watch(Silent):
    """An observer that stores when each event was recorded."""

    def __init__(self) -> None:
        self.events: list[tuple[float, Event]] = []

    def recorded(self, event: Event, tree: FamilyTree, at: str) -> None:  # noqa: ARG002
        """Store the event with the time of the clock."""
        self.events.append((time.monotonic(), event))


def start_ups(turns: int) -> dict[str, float]:
    """Return the median seconds of processes that only start."""

    def once(arguments: list[str]) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began

    return {name: median(once(arguments) for _ in range(turns)) for name, arguments in STARTS.items()}


def write_config(folder: Path, foundations: int) -> Path:
    """Write a family and the configuration of a run of three generations; return its path."""
    path = write_family(folder, tuple(NAMES[:foundations]))
    raw = yaml.safe_load(path.read_text())
    raw["strategy"]["max_generations"] = 3
    path.write_text(yaml.safe_dump(raw))
    return path


def run(config: Path, place: Path) -> dict[str, Any]:
    """Return the figures of one run."""
    made: list[TimingExecutor] = []

    def executor(progress: Progress, device: str) -> TimingExecutor:
        made.append(TimingExecutor(progress, device))
        return made[-1]

    watch = Watch()
    began = time.monotonic()
    done = Session(FAKE, watch, executors=executor).run(load_config(config), place)
    ended = time.monotonic()
    calls, models = made[0].calls, len(done.tree.models)
    first_submit, first_began = calls[0][:2]
    wall = ended - first_began  # the start-up is given separately
    engines = sum(ended - began for _, began, ended, _ in calls)
    pipe = sum(began - submitted for submitted, began, *_ in calls[1:])
    pipe += sum(received - ended for *_, ended, received in calls)
    halves = _halves([at for at, event in watch.events if isinstance(event, ModelEvaluated)])
    return {
        "models": models,
        "events": len(watch.events),
        "calls": len(calls),
        "seconds": wall,
        "engine_s": engines,
        "ms_per_model": (wall - engines) / models * 1e3,
        "of_which_pipe_ms": pipe / models * 1e3,
        "ms_per_event": (wall - engines) / len(watch.events) * 1e3,
        "ms_between_children": halves,
        "until_first_call_s": first_submit - began,
        "worker_start_s": first_began - first_submit,
    }


def _halves(times: list[float]) -> list[float]:
    """Return the median milliseconds from one score to the next, for the first and the second half of a run."""
    gaps = [1e3 * (later - earlier) for earlier, later in pairwise(times)]
    middle = len(gaps) // 2
    return [median(gaps[:middle]), median(gaps[middle:])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--foundations", type=int, default=7, help="2 to 26; 7 make about 30 models, 16 about 140")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="folder for the runs; the cost of syncing depends on its disk")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    starts, runs = start_ups(options.turns), []
    for name, seconds in starts.items():
        print(f"{name:24} {seconds:6.2f} s")
    with tempfile.TemporaryDirectory(prefix="evolve-overhead-", dir=options.folder) as place:
        for number in range(options.turns):
            folder = Path(place) / str(number)
            runs.append(run(write_config(folder / "family", options.foundations), folder / "runs" / "run"))
            print(_line(runs[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"start_ups_s": starts, "runs": runs}, indent=2) + "\n")


def _line(found: dict[str, Any]) -> str:
    first, second = found["ms_between_children"]
    return (
        f"{found['models']} models, {found['events']} events, {found['calls']} calls in {found['seconds']:.2f} s: "
        f"engines {found['engine_s']:.2f} s; overhead {found['ms_per_model']:.1f} ms a model "
        f"(pipe {found['of_which_pipe_ms']:.1f}), {found['ms_per_event']:.1f} ms an event; "
        f"from score to score {first:.1f} ms in the first half, {second:.1f} in the second; "
        f"{found['until_first_call_s']:.2f} s until the first call, {found['worker_start_s']:.2f} s to start the worker"
    )


if __name__ == "__main__":
    main()
