"""One long fake run whose driver, worker or both are killed at random moments until the kills are used up."""

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

from runs import Reference, events, in_place, start, tallied


@dataclass
class Soaked:
    """What came of it; `problems` is empty where all was as it should be."""

    kills: int = 0
    by_target: Counter[str] = field(default_factory=Counter)
    sessions: int = 0
    models: int = 0
    repeated: int = 0
    orphans: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def soak(place: Path, *, kills: int, seed: int, foundations: int) -> Soaked:
    """Kill, resume, and compare the end with that of a run that nothing happened to."""
    began, draw, found = time.monotonic(), random.Random(seed), Soaked()
    config = _long_config(place / "family", foundations)
    expected = _undisturbed(place / "expected", config)
    run, tally = place / "soaked" / "run", place / "tally"
    while True:
        found.sessions += 1
        done = in_place(run)
        ended = _session(run, config, tally, draw, found, kill=found.kills < kills)
        again = done & set(tallied(tally))
        if again:
            found.problems.append(f"done twice: {', '.join(sorted(again))}")
        found.repeated += sum(tallied(tally).values())
        tally.unlink(missing_ok=True)
        if ended:
            break
    found.repeated -= sum(expected.tally.values())
    found.models = len(expected.portrait["nodes"])
    try:
        expected.check(run, retries=False)
    except AssertionError as error:
        found.problems.append(f"another outcome: {error}")
    if events(run, "model_failed"):
        found.problems.append("a model failed")
    found.seconds = time.monotonic() - began
    return found


def _long_config(place: Path, foundations: int) -> Path:
    """All pairs of the foundations make a long first generation; there are attempts for every worker that is killed."""
    config = write_family(place, tuple("ABCDEFGHIJKL"[:foundations]))
    raw = yaml.safe_load(config.read_text())
    raw["strategy"] |= {"max_generations": 12, "top_k": 5}
    config.write_text(yaml.safe_dump(raw | {"attempts": 1000}, sort_keys=False))
    return config


def _undisturbed(place: Path, config: Path) -> Reference:
    process = start("run", config, "--run-dir", place / "run", EVOLVE_FAKE_TALLY=place.with_suffix(".tally"))
    _, err = process.communicate()
    assert process.returncode == 0, err
    return Reference.of(place / "run", place.with_suffix(".tally"))


def _session(run: Path, config: Path, tally: Path, draw: random.Random, found: Soaked, *, kill: bool) -> bool:
    """Drive until a kill of the driver or the end; whether it was the end."""
    wishes = "merge:*:sleep0.2,evaluate:*:sleep0.4" if kill else ""
    process = start("run", config, "--run-dir", run, EVOLVE_FAKE=wishes, EVOLVE_FAKE_TALLY=tally)
    if not kill:
        _, err = process.communicate(timeout=600)
        if process.returncode:
            found.problems.append(f"exit code {process.returncode}: {err}")
        return True
    time.sleep(draw.uniform(0.3, 2.0))
    if process.poll() is not None:
        process.communicate()
        return True
    workers = _workers(process.pid)
    target = draw.choice(["driver", "worker", "both"] if workers else ["driver"])
    victims = {"driver": [process.pid], "worker": workers, "both": [*workers, process.pid]}[target]
    for pid in victims:
        _kill(pid)
    found.kills += 1
    found.by_target[target] += 1
    if target == "worker":
        time.sleep(draw.uniform(0.0, 0.5))  # the driver goes on, until it is killed as well
        if process.poll() is None:
            workers = [*workers, *_workers(process.pid)]
            _kill(process.pid)
    process.communicate()
    found.orphans += sum(not _ends(pid) for pid in workers)
    if found.orphans:
        found.problems.append("a worker outlived its driver")
    return process.returncode == 0


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _workers(driver: int) -> list[int]:
    """The worker, and whatever else the driver has started."""
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
