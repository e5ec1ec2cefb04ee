"""Runs with the real engines on a tiny family whose driver, worker or both are killed at random times."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from soak import PATIENCE_S, Soaked, kill_one

from runs import Reference, environment, events, files, finished_work, tree_without_times
from tests.engines.evaluation import _world
from tests.support import families

_EARLY = 5


@dataclass
class RealSoaked(Soaked):
    """The outcome of a soak test with the real engines.

    Attributes:
        early: Number of kills before the first event, by run.
        before_work: Kills while a session started, before it recorded anything.
        runs: Runs that were completed; a run that ends before all kills are made is followed by another.
    """

    early: Counter[Path] = field(default_factory=Counter)
    before_work: int = 0
    runs: int = 0


def real_soak(folder: Path, *, kills: int, seed: int) -> RealSoaked:
    """Kill and resume runs until enough kills are made, and compare each with an uninterrupted run."""
    began, draw, found = time.monotonic(), random.Random(seed), RealSoaked()
    config = write_family(folder / "family")
    temporary = folder / "temporary"
    temporary.mkdir()
    expected, starting_s = _uninterrupted(folder / "expected", config, temporary)
    session = partial(_session, config=config, temporary=temporary, draw=draw, found=found, starting_s=starting_s)
    found.models = len(expected.tree["nodes"])
    while found.kills < kills or found.runs == 0:
        run = folder / f"soaked{found.runs:02}" / "run"  # as long as "expected", which the model cards hold
        while not session(run, is_killed=found.kills < kills):
            pass
        found.runs += 1
        _compare(run, expected, found)
    _check(folder, config, temporary, found)
    found.seconds = time.monotonic() - began
    return found


def write_family(folder: Path) -> Path:
    """Write a base, three foundations, two tasks with local items and a configuration with three generations."""
    base = families.save(folder / "base", seed=1)
    for number, name in enumerate("ABC", start=2):
        families.save(folder / name, seed=number, near=base)
    families.winogrande(folder / "winogrande", 24)
    _world.write_lines(folder / "gsm8k" / "train.jsonl", _world.gsm8k_items(4, 3))
    _world.write_lines(folder / "gsm8k" / "test.jsonl", _world.gsm8k_items(6, 4))
    generation = {"max_gen_toks": 8}
    tasks = [
        {"task": "winogrande", "num_fewshot": 1},
        {"task": "gsm8k", "metric": "exact_match,strict-match", "num_fewshot": 1, "generation_kwargs": generation},
    ]
    config = {
        "name": "soak",
        "base_model": "./base",
        "foundation_models": {name: f"./{name}" for name in "ABC"},
        "strategy": {"max_generations": 3, "stop_at_kinship": None},
        "merge": {"recipe": "slerp", "dtype": "float32"},
        "evaluation": {
            "tasks": tasks,
            "datasets": {"winogrande": "./winogrande", "gsm8k": "./gsm8k"},
            "model_args": {"dtype": "float32"},
            "batch_size": 2,
        },
        "device": "cpu",
        "attempts": 1000,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def _start(run: Path, temporary: Path, *arguments: str | Path) -> subprocess.Popen[bytes]:
    """Start a command whose output goes into a file beside a run."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (run.parent / "output").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "evolve", *map(str, arguments)],
            env=environment(**offline, TMPDIR=temporary),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _uninterrupted(folder: Path, config: Path, temporary: Path) -> tuple[Reference, float]:
    """Return the uninterrupted run, and the seconds until its first event."""
    folder.mkdir()
    began = time.monotonic()
    process = _start(folder / "run", temporary, "run", config, "--run-dir", folder / "run")
    _wait_for_growth(process, folder / "run" / "journal.jsonl", 0)
    starting_s = time.monotonic() - began
    assert process.wait(PATIENCE_S) == 0, (folder / "output").read_text()
    return Reference.of(folder / "run", folder / "no-tally"), starting_s


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _wait_for_growth(process: subprocess.Popen[bytes], journal: Path, size: int) -> None:
    """Wait until the journal is longer than some size, or the process has ended."""
    while process.poll() is None and _size(journal) <= size:
        time.sleep(0.01)


def _session(
    run: Path,
    *,
    config: Path,
    temporary: Path,
    draw: random.Random,
    found: RealSoaked,
    starting_s: float,
    is_killed: bool,
) -> bool:
    """Run until a process is killed or the run ends; return whether it ended.

    Half of the kills come within `starting_s`, while the session starts, the others after its first event. Of a run
    that has not begun, up to `_EARLY` starts are killed within `starting_s`.
    """
    run.parent.mkdir(exist_ok=True)
    found.sessions += 1
    journal = run / "journal.jsonl"
    size = _size(journal)
    with _unchanged(run, found):
        process = _start(run, temporary, "run", config, "--run-dir", run)
        if is_killed:
            early = not size and found.early[run] < _EARLY
            _wait(process, journal, size, draw, starting_s, early=early)
            if process.poll() is None:
                found.early[run] += not _size(journal)
                found.before_work += _size(journal) <= size
                return kill_one(process, draw, found, most_s=6.0)
        if process.wait(PATIENCE_S):
            found.problems.append(f"exit code {process.returncode}: {(run.parent / 'output').read_text()[-2000:]}")
        return True


def _wait(
    process: subprocess.Popen[bytes], journal: Path, size: int, draw: random.Random, starting_s: float, *, early: bool
) -> None:
    if early or draw.random() < 0.5:
        time.sleep(draw.uniform(0.0, starting_s))
    else:
        _wait_for_growth(process, journal, size)
        time.sleep(draw.uniform(0.0, 1.5))


@contextmanager
def _unchanged(run: Path, found: RealSoaked) -> Iterator[None]:
    """Report a problem if finished work is done again."""
    done, before = finished_work(run), _stamps(run)
    yield
    lost = done - finished_work(run)
    again = [path for path, stamp in before.items() if _stamps(run).get(path) != stamp]
    if lost or again:
        found.problems.append(f"lost: {sorted(lost)}, written again: {[str(path) for path in again]}")


def _stamps(run: Path) -> dict[Path, tuple[int, int]]:
    """Return inode and modification time of each file of the finished merges and evaluations."""
    files = (path for folder in ("models", "evals") for path in run.glob(f"{folder}/[!.]*/**/*") if path.is_file())
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def _check(folder: Path, config: Path, temporary: Path, found: RealSoaked) -> None:
    """Start a check, which removes what killed drivers left in the temporary folder, and assert that it is empty."""
    (folder / "check").mkdir()
    process = _start(folder / "check" / "run", temporary, "check", config)
    if process.wait(PATIENCE_S):
        found.problems.append(f"the check failed: {(folder / 'check' / 'output').read_text()[-2000:]}")
    left = sorted(path.name for path in temporary.iterdir())
    if left:
        found.problems.append(f"left in the temporary folder: {', '.join(left)}")


def _compare(run: Path, expected: Reference, found: RealSoaked) -> None:
    (run.parent / "output").unlink()
    (expected.run.parent / "output").unlink(missing_ok=True)
    tree, expected_tree = (_plain(part) for part in (tree_without_times(run), expected.tree))
    changed = [key for key in {*tree, *expected_tree} if tree.get(key) != expected_tree.get(key)]
    if changed:
        differences = [(key, tree.get(key), expected_tree.get(key)) for key in sorted(changed)]
        found.problems.append(f"another tree: {differences}")
    ours = set(files(run)) - {"run/driver.json"}  # of a driver that was killed after the run had stopped
    theirs = set(expected.files)
    if ours != theirs:
        found.problems.append(f"other files: {sorted(ours - theirs)} instead of {sorted(theirs - ours)}")
    if events(run, "model_failed"):
        found.problems.append("a model failed")


def _plain(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of a tree by path, without retries."""
    nodes = {f"node {node['id']} {key}": value for node in tree["nodes"] for key, value in node.items()}
    graph = {f"graph {key}": value for key, value in tree["graph"].items()}
    shown = {key: value for key, value in nodes.items() if not key.endswith(" retries")}
    return shown | graph | {"edges": tree["edges"]}
