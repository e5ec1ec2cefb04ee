"""One merge for each family of models that evolve's users have, carried through to a child that speaks."""

from __future__ import annotations

import pytest

from evolve.engines.merging import load_template, rehearse, render
from evolve.errors import MergeError, RecipeError
from tests.engines.merging import _models as tiny

UNTIED = ["mistral", "llama", "qwen2", "qwen3", "gemma2", "phi3"]
TIED = ["mistral", "llama", "qwen2", "qwen3", "gemma", "gemma2"]
ALL = [*((name, False) for name in UNTIED), *((name, True) for name in TIED)]


def recipe(parents, base):
    template = load_template("slerp-gradient")
    return render(template, parents=parents, base=base, num_layers=2, dtype="float32", tokenizer=None)


@pytest.mark.parametrize(("name", "tied"), ALL)
def test_a_family(child, tmp_path, name, tied):
    base = tiny.save(tmp_path / "base", name, tied=tied)
    parents = tuple(tiny.save(tmp_path / f"p{seed}", name, near=base, seed=seed, tied=tied) for seed in (1, 2))
    rehearse(recipe(parents, base))
    merged = child(parents, base)
    assert tiny.weights(merged).keys() == tiny.weights(parents[0]).keys()
    tiny.generate(merged)


@pytest.mark.parametrize(("name", "tied"), ALL)
def test_a_family_with_an_added_token(child, tmp_path, name, tied):
    base = tiny.save(tmp_path / "base", name, tied=tied)
    parents = (
        tiny.save(tmp_path / "p1", name, near=base, seed=1, tied=tied),
        tiny.save(tmp_path / "p2", name, near=base, seed=2, tied=tied, extra=["<x>"]),
    )
    tiny.generate(child(parents, base))


@pytest.mark.parametrize(
    ("layout", "tensor"),
    [
        (("gpt_neox", False), "gpt_neox.layers.0.attention.bias"),  # a mask that transformers no longer saves
        (("phi3", True), "lm_head.weight"),
    ],
)
def test_what_mergekit_cannot_merge_is_said(child, tmp_path, layout, tensor):
    """Layouts that mergekit 0.1.5 does not know; when one of these fails, mergekit has learnt it."""
    name, tied = layout
    base = tiny.save(tmp_path / "base", name, tied=tied)
    parents = tuple(tiny.save(tmp_path / f"p{seed}", name, near=base, seed=seed, tied=tied) for seed in (1, 2))
    message = f"Tensor {tensor} required but not present in model .*/p1"
    with pytest.raises(MergeError, match=message):
        child(parents, base)
    with pytest.raises(RecipeError, match=message):  # and before any work starts
        rehearse(recipe(parents, base))
