"""A family so small that it is built in seconds; it learns nothing."""

from __future__ import annotations

import pytest

from evolve.nursery import Family, NurseryRecipe, build

_MICRO = NurseryRecipe(
    vocabulary=400,
    hidden=16,
    feed_forward=32,
    layers=2,
    heads=2,
    key_value_heads=1,
    training_items=60,
    evaluation_items=24,
    batch=2,
    questions=4,
    base_steps=6,
    specialist_steps=(4, 5, 4),
    warm_up=2,
)


@pytest.fixture(scope="session")
def recipe() -> NurseryRecipe:
    return _MICRO


@pytest.fixture(scope="session")
def seed() -> int:
    return 7


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory, recipe: NurseryRecipe, seed: int) -> Family:
    return build(tmp_path_factory.mktemp("micro") / "nursery", seed=seed, recipe=recipe)
