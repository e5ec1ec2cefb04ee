"""What holds the parts apart: light imports and curated public surfaces."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import evolve

ROOT = Path(evolve.__file__).parents[1]
HEAVY = ("torch", "transformers", "mergekit", "lm_eval")


def imported_by(module: str) -> set[str]:
    """The top-level packages that a fresh process has loaded after one import."""
    code = f"import {module}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["evolve", "evolve.config", "evolve.lineage", "evolve.engines.protocols"])
def test_light_modules_load_no_engine(module):
    loaded = imported_by(module)

    assert "evolve" in loaded
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("name", ["evolve", "evolve.config", "evolve.lineage"])
def test_all_names_exactly_what_a_package_exports(name):
    package = importlib.import_module(name)
    exported = {
        key
        for key, value in vars(package).items()
        if not isinstance(value, types.ModuleType) and (not key.startswith("_") or key == "__version__")
    }

    assert exported == set(package.__all__)
    assert len(package.__all__) == len(set(package.__all__))


@pytest.mark.parametrize(
    "name",
    [
        *("evolve.config.loading", "evolve.config.messages", "evolve.config.schema", "evolve.errors"),
        *("evolve.lineage.events", "evolve.lineage.model", "evolve.lineage.node_link", "evolve.lineage.plan"),
        *("evolve.lineage.selection", "evolve.lineage.tree", "evolve.engines.protocols"),
    ],
)
def test_all_of_a_module_names_what_is_there(name):
    module = importlib.import_module(name)

    assert not [key for key in module.__all__ if not hasattr(module, key)]
    assert not [key for key in module.__all__ if key.startswith("_")]


def test_every_error_that_is_raised_on_purpose_is_one_of_ours_with_an_exit_code():
    errors = importlib.import_module("evolve.errors")

    for name in errors.__all__:
        error = getattr(errors, name)
        assert issubclass(error, errors.EvolveError)
        assert error.exit_code == (2 if issubclass(error, errors.InputError) else 1)
        assert name in errors.__doc__
