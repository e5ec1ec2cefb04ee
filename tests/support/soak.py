"""One long fake run whose driver, worker or both are killed at random times; the kills serve `real_soak` too."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from fakes import write_family

from runs import Reference, calls_begun, events, finished_work, start

PATIENCE_S = 600.0


@dataclass
class Soaked:
    """The outcome of a soak test; `problems` is empty on success."""

    kills: int = 0
    by_target: Counter[str] = field(default_factory=Counter)
    sessions: int = 0
    models: int = 0
    repeated: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def soak(folder: Path, *, kills: int, seed: int, foundations: int) -> Soaked:
    """Kill and resume a run repeatedly, and compare the result with that of an uninterrupted run."""
    began, draw, found = time.monotonic(), random.Random(seed), Soaked()
    config = _long_config(folder / "family", foundations)
    expected = _uninterrupted(folder / "expected", config)
    run, tally = folder / "soaked" / "run", folder / "tally"
    while True:
        found.sessions += 1
        done = finished_work(run)
        ended = _session(run, config, tally, draw, found, is_killed=found.kills < kills)
        again = done & set(calls_begun(tally))
        if again:
            found.problems.append(f"done twice: {', '.join(sorted(again))}")
        found.repeated += sum(calls_begun(tally).values())
        tally.unlink(missing_ok=True)
        if ended:
            break
    found.repeated -= sum(expected.tally.values())
    found.models = len(expected.tree["nodes"])
    try:
        expected.check(run, retries=False)
    except AssertionError as error:
        found.problems.append(f"another result: {error}")
    if events(run, "model_failed"):
        found.problems.append("a model failed")
    found.seconds = time.monotonic() - began
    return found


def _long_config(folder: Path, foundations: int) -> Path:
    """Write a configuration with a long first generation and enough attempts for all killed workers."""
    config = write_family(folder, tuple("ABCDEFGHIJKL"[:foundations]))
    raw = yaml.safe_load(config.read_text())
    raw["strategy"] |= {"max_generations": 12, "top_k": 5}
    config.write_text(yaml.safe_dump(raw | {"attempts": 1000}, sort_keys=False))
    return config


def _uninterrupted(folder: Path, config: Path) -> Reference:
    process = start("run", config, "--run-dir", folder / "run", EVOLVE_FAKE_TALLY=folder.with_suffix(".tally"))
    _, err = process.communicate()
    assert process.returncode == 0, err
    return Reference.of(folder / "run", folder.with_suffix(".tally"))


def _session(run: Path, config: Path, tally: Path, draw: random.Random, found: Soaked, *, is_killed: bool) -> bool:
    """Run until the driver is killed or the run ends; return whether it ended."""
    faults = "merge:*:sleep0.2,evaluate:*:sleep0.4" if is_killed else ""
    process = start("run", config, "--run-dir", run, EVOLVE_FAKE=faults, EVOLVE_FAKE_TALLY=tally)
    if not is_killed:
        _, err = process.communicate(timeout=PATIENCE_S)
        if process.returncode:
            found.problems.append(f"exit code {process.returncode}: {err}")
        return True
    time.sleep(draw.uniform(0.3, 2.0))
    if process.poll() is not None:
        process.communicate()
        return True
    return kill_one(process, draw, found, most_s=0.5)


def kill_one(process: subprocess.Popen[Any], draw: random.Random, found: Soaked, *, most_s: float) -> bool:
    """Kill the driver, its worker or both; return whether the run has ended nevertheless.

    Args:
        process: The driver.
        draw: Chooses the target.
        found: Receives the kill, and a problem if a worker outlives the driver.
        most_s: The longest time for which a driver goes on without its worker, until it is killed as well.
    """
    workers = _workers(process.pid)
    target = draw.choice(["driver", "worker", "both"] if workers else ["driver"])
    for pid in {"driver": [process.pid], "worker": workers, "both": [*workers, process.pid]}[target]:
        _kill(pid)
    found.kills += 1
    found.by_target[target] += 1
    if target == "worker":  # the driver starts another worker, or ends if its run has not begun
        time.sleep(draw.uniform(0.0, most_s))
        if process.poll() is None:
            workers = [*workers, *_workers(process.pid)]
            _kill(process.pid)
    process.communicate(timeout=PATIENCE_S)
    if not all(map(_ends, workers)):
        found.problems.append("a worker outlived its driver")
    return process.returncode == 0


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _workers(driver: int) -> list[int]:
    """Return the child processes of the driver: the worker and others."""
    try:
        return [int(pid) for pid in Path(f"/proc/{driver}/task/{driver}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _ends(pid: int) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False
