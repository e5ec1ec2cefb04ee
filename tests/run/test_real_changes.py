"""Data and weights that are replaced while mergekit and lm-eval work: no wrong result is recorded or shared."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evolve.nursery import Family
from runs import environment, events, journal, outcome
from tests.conftest import TASKS, Evolve, write_config
from tests.support.served import OFFLINE

PATIENCE_S = 120.0


@pytest.fixture
def own(tmp_path: Path, family: Family) -> Family:
    """Return a copy of the family that a test may change."""
    models = {name: shutil.copytree(folder, tmp_path / name) for name, folder in family.specialists.items()}
    data = {task: shutil.copytree(folder, tmp_path / "data" / task) for task, folder in family.datasets.items()}
    return replace(family, specialists=models, datasets=data)


def _config(family: Family, folder: Path) -> Path:
    winogrande, _, truthful = TASKS
    evaluation = {
        "tasks": [winogrande, truthful],
        "datasets": {task: str(family.datasets[task]) for task in ("winogrande", "truthfulqa_mc2")},
        "model_args": {"dtype": "float32"},
        "batch_size": 4,
        "limit": 12,
    }
    strategy = {"name": "kinship", "top_k": 2, "max_generations": 2, "stop_at_kinship": None}
    return write_config(folder / "changes.yaml", family, evaluation=evaluation, strategy=strategy)


@pytest.fixture(scope="module")
def undisturbed(family: Family, tmp_path_factory: pytest.TempPathFactory, served_evolve: Evolve) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = served_evolve("run", _config(family, folder), "--run-dir", folder / "runs" / "run")
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "run"


def _start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "evolve", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment(**OFFLINE), stdout=pipe, stderr=pipe, text=True)


def _tree(run: Path) -> dict[str, Any]:
    """Return the tree without sizes, because a checkpoint's model card has the paths of its parents."""
    tree = outcome(run)
    return tree | {"nodes": [{key: node[key] for key in node if key != "bytes"} for node in tree["nodes"]]}


def _scores(run: Path) -> dict[str, Any]:
    """Return the value of each score in the store beside a run, by key."""
    records = run.parent.glob(".scores/*/*/score.json")
    return {path.parts[-3:-1]: json.loads(path.read_text())["score"] for path in records}


def _replace(path: Path, content: bytes) -> None:
    """Replace a file by another one with the same times."""
    times = path.stat()
    other = path.with_name(".other")
    other.write_bytes(content)
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)


def _reversed_lines(content: bytes) -> bytes:
    return b"".join(reversed(content.splitlines(keepends=True)))


def _other_numbers(content: bytes) -> bytes:
    return content[:-4096] + bytes(byte ^ 1 for byte in content[-4096:])


@pytest.mark.parametrize(
    ("when", "name", "change"),
    [
        ("model_evaluated", "data/winogrande/validation.jsonl", _reversed_lines),
        ("kinship_measured", "FIRST/model.safetensors", _other_numbers),
    ],
    ids=["data", "weights"],
)
def test_a_file_that_is_replaced_during_a_run_is_named(
    *,
    when: str,
    name: str,
    change: Callable[[bytes], bytes],
    own: Family,
    tmp_path: Path,
    undisturbed: Path,
    served_evolve: Evolve,
) -> None:
    run, path = tmp_path / "runs" / "run", tmp_path / name.replace("FIRST", next(iter(own.specialists)))
    before = path.read_bytes()
    driver = _start("run", _config(own, tmp_path), "--run-dir", run)
    end = time.monotonic() + PATIENCE_S
    while driver.poll() is None and time.monotonic() < end:
        if (run / "journal.jsonl").exists() and events(run, when):
            _replace(path, change(before))
            break
        time.sleep(0.01)
    _, err = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 1, err
    assert f"{path} has changed" in " ".join(err.split())
    assert f"evolve resume {run}" in " ".join(err.split())
    kept = journal(run)
    assert _scores(run).items() <= _scores(undisturbed).items()
    assert not events(run, "step_retried")
    assert not events(run, "model_failed")

    refused = served_evolve("resume", run)
    assert refused.returncode == 2, refused.stderr
    assert journal(run) == kept

    _replace(path, before)
    resumed = served_evolve("resume", run)
    assert resumed.returncode == 0, resumed.stderr
    assert _tree(run) == _tree(undisturbed)
    assert _scores(run) == _scores(undisturbed)
