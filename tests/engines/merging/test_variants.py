"""One merge for each variant of embeddings and tokens, up to a child that generates."""

from __future__ import annotations

import pytest

from evolve.errors import MergeError
from tests.engines.merging import _models as tiny

UNTIED = ["mistral", "llama", "qwen2", "qwen3", "gemma2", "phi3"]
TIED = ["mistral", "llama", "qwen2", "qwen3", "gemma", "gemma2"]
ALL = [*((name, False) for name in UNTIED), *((name, True) for name in TIED)]


@pytest.mark.parametrize(("name", "tied"), ALL)
def test_variants(child, tmp_path, name, tied):
    base = tiny.save(tmp_path / "base", name, tied=tied)
    parents = tuple(tiny.save(tmp_path / f"p{seed}", name, near=base, seed=seed, tied=tied) for seed in (1, 2))
    merged = child(parents, base)
    assert tiny.weights(merged).keys() == tiny.weights(parents[0]).keys()
    tiny.generate(merged)


@pytest.mark.parametrize(("name", "tied"), ALL)
def test_an_added_token(child, tmp_path, name, tied):
    base = tiny.save(tmp_path / "base", name, tied=tied)
    parents = (
        tiny.save(tmp_path / "p1", name, near=base, seed=1, tied=tied),
        tiny.save(tmp_path / "p2", name, near=base, seed=2, tied=tied, extra=["<x>"]),
    )
    tiny.generate(child(parents, base))


def test_a_tied_variant_that_mergekit_cannot_read(child, tmp_path):
    """mergekit 0.1.5 requires an lm_head of Phi-3; when this fails, mergekit has learned the variant."""
    base = tiny.save(tmp_path / "base", "phi3", tied=True)
    parents = tuple(tiny.save(tmp_path / f"p{seed}", "phi3", near=base, seed=seed, tied=True) for seed in (1, 2))
    with pytest.raises(MergeError, match=r"Tensor lm_head\.weight required but not present in model .*/p1"):
        child(parents, base)
