"""One long fake run whose driver, worker or both are killed at random times, for a number of kills."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from fakes import write_family

from runs import Reference, calls_begun, events, finished_work, start


@dataclass
class Soaked:
    """The outcome of a soak test; `problems` is empty on success."""

    kills: int = 0
    by_target: Counter[str] = field(default_factory=Counter)
    sessions: int = 0
    models: int = 0
    repeated: int = 0
    orphans: int = 0
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
        ended = _session(run, config, tally, draw, found, kill=found.kills < kills)
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


def _session(run: Path, config: Path, tally: Path, draw: random.Random, found: Soaked, *, kill: bool) -> bool:
    """Run until the driver is killed or the run ends; return whether it ended."""
    faults = "merge:*:sleep0.2,evaluate:*:sleep0.4" if kill else ""
    process = start("run", config, "--run-dir", run, EVOLVE_FAKE=faults, EVOLVE_FAKE_TALLY=tally)
    if not kill:
        _, err = process.communicate(timeout=600)
        if process.returncode:
            found.problems.append(f"exit code {process.returncode}: {err}")
        return True
    time.sleep(draw.uniform(0.3, 2.0))
    if process.poll() is not None:
        process.communicate()
        return True
    workers = workers_of(process.pid)
    target = draw.choice(["driver", "worker", "both"] if workers else ["driver"])
    victims = {"driver": [process.pid], "worker": workers, "both": [*workers, process.pid]}[target]
    for pid in victims:
        kill(pid)
    found.kills += 1
    found.by_target[target] += 1
    if target == "worker":
        time.sleep(draw.uniform(0.0, 0.5))  # the driver continues until it is killed as well
        if process.poll() is None:
            workers = [*workers, *workers_of(process.pid)]
            kill(process.pid)
    process.communicate()
    found.orphans += sum(not ends(pid) for pid in workers)
    if found.orphans:
        found.problems.append("a worker outlived its driver")
    return process.returncode == 0


def kill(pid: int) -> None:
    """Kill a process that may have ended."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def workers_of(driver: int) -> list[int]:
    """Return the child processes of the driver: the worker and others."""
    try:
        return [int(pid) for pid in Path(f"/proc/{driver}/task/{driver}/children").read_text().split()]
    except FileNotFoundError:
        return []


def ends(pid: int) -> bool:
    """Return whether a process ends within ten seconds."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False
