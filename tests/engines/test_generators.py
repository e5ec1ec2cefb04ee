"""The global random generators are captured, restored and seeded together."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from evolve.engines.generators import Generators, preserved_generators, seed_generators


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), torch.rand(1).item()


def seed_and_fail() -> None:
    seed_generators(3)
    raise RuntimeError("stop")


def test_equal_seeds_give_equal_draws():
    with preserved_generators():
        seed_generators(1)
        first = draw()
        assert draw() != first
        seed_generators(1)
        assert draw() == first
        seed_generators(2)
        assert all(now != before for now, before in zip(draw(), first, strict=True))


def test_a_captured_state_is_restored_and_compares_by_value():
    with preserved_generators():
        state = Generators.capture()
        assert Generators.capture() == state
        first = draw()
        assert Generators.capture() != state
        state.restore()
        assert draw() == first


def test_generators_are_preserved_when_the_block_fails():
    before = Generators.capture()
    with pytest.raises(RuntimeError, match="stop"), preserved_generators():
        seed_and_fail()
    assert Generators.capture() == before


def test_neither_the_import_nor_a_capture_loads_torch():
    code = """
import sys
import evolve.engines.generators as generators
print("torch" in sys.modules)
state = generators.Generators.capture()
state.restore()
print(state.torch, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False", "None False"]
