"""Shared fixtures: a tiny, barely trained family, and the command in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from evolve.nursery import Family, NurseryRecipe, build
from tests.support.served import OFFLINE, ServedEvolve

TASKS = [
    {"task": "winogrande", "metric": "acc,none", "num_fewshot": 2},
    {
        "task": "gsm8k",
        "metric": "exact_match,strict-match",
        "num_fewshot": 2,
        "generation_kwargs": {"max_gen_toks": 8},
    },
    {"task": "truthfulqa_mc2", "metric": "acc,none", "num_fewshot": 0},
]

_CACHE = tempfile.TemporaryDirectory(prefix="evolve-test-cache-")
os.environ["EVOLVE_CACHE_DIR"] = _CACHE.name  # no test uses the user's cache

Evolve = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def evolve() -> Evolve:
    """Return a function that runs the command in a separate process, offline and with one thread."""

    def call(*arguments: str | Path, cwd: Path | None = None, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **OFFLINE}
        return subprocess.run(
            [sys.executable, "-m", "evolve", *map(str, arguments)],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return call


@pytest.fixture(scope="session")
def served_evolve() -> Iterator[ServedEvolve]:
    """Return a function like `evolve`; its processes are forked from one that has loaded the engines."""
    served = ServedEvolve()
    yield served
    served.close()


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Build a base and three specialists of two layers, trained for a few steps."""
    recipe = NurseryRecipe(
        vocabulary=512,
        hidden=32,
        feed_forward=64,
        layers=2,
        heads=2,
        key_value_heads=1,
        training_items=60,
        evaluation_items=30,
        base_steps=12,
        specialist_steps=(6, 6, 6),
        warm_up=2,
    )
    return build(tmp_path_factory.mktemp("family"), seed=1, recipe=recipe)


def write_config(path: Path, family: Family, **sections: object) -> Path:
    """Write a configuration for a family; `sections` replace top-level keys."""
    config = {
        "name": path.stem,
        "base_model": str(family.base),
        "foundation_models": {name: str(folder) for name, folder in family.specialists.items()},
        "strategy": {"name": "kinship", "top_k": 3, "max_generations": 3, "stop_at_kinship": None},
        "evaluation": {
            "tasks": TASKS,
            "datasets": {task: str(folder) for task, folder in family.datasets.items()},
            "model_args": {"dtype": "float32"},
            "limit": 12,
        },
    } | sections
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path
