"""The layer gradient of the paper against a computation of our own, in numpy and double precision.

arXiv 2410.12613: attention takes t from [0, 0.5, 0.3, 0.7, 1] over the depth, the MLPs from [1, 0.5, 0.7, 0.3, 0], all
else 0.5; t = 0 is parent 1.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.engines.merging import _models as tiny

LAYERS = 4
ATTENTION, MLP = [0, 0.5, 0.3, 0.7, 1], [1, 0.5, 0.7, 0.3, 0]


def slerp(t, one, two):
    """Shoemake's formula over a tensor taken as one vector; a line where the vectors are nearly parallel."""
    one, two = one.astype(np.float64), two.astype(np.float64)
    cosine = (one * two).sum() / (np.linalg.norm(one) * np.linalg.norm(two))
    if abs(cosine) > 0.9995:
        return (1 - t) * one + t * two
    angle = np.arccos(cosine)
    return (np.sin((1 - t) * angle) * one + np.sin(t * angle) * two) / np.sin(angle)


def expected_t(name):
    if "layers." not in name:
        return 0.5
    depth = int(name.split("layers.")[1].split(".")[0]) / (LAYERS - 1)
    for part, gradient in (("self_attn", ATTENTION), ("mlp", MLP)):
        if part in name:
            return float(np.interp(depth, np.linspace(0, 1, len(gradient)), gradient))
    return 0.5


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    """Two models far enough from each other for arcs, with some tensors near enough for lines."""
    root = tmp_path_factory.mktemp("gradient")
    one = tiny.save(root / "one", layers=LAYERS, seed=1, scale=1.0)
    return one, tiny.save(root / "two", layers=LAYERS, seed=2, near=one, scale=0.5)


@pytest.mark.parametrize("swapped", [False, True])
def test_every_tensor_lies_where_the_paper_puts_it(parents, child, swapped):
    one, two = parents[::-1] if swapped else parents
    merged, first, second = tiny.weights(child((one, two), one)), tiny.weights(one), tiny.weights(two)
    arcs = lines = 0
    for name, tensor in merged.items():
        a, b = first[name].numpy(), second[name].numpy()
        wanted = slerp(expected_t(name), a, b)
        np.testing.assert_allclose(tensor.numpy(), wanted, rtol=2e-4, atol=2e-6, err_msg=name)
        cosine = (a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b))
        arcs += bool(cosine <= 0.9995)
        lines += bool(cosine > 0.9995)
    assert len(merged) == 3 + 9 * LAYERS
    assert arcs > 2 * LAYERS
    assert lines >= 0


def test_the_ends_of_the_gradient_are_the_parents(parents, child):
    import torch

    merged, first, second = tiny.weights(child(parents, parents[0])), *map(tiny.weights, parents)
    last = LAYERS - 1
    for layer, attention, mlp in ((0, first, second), (last, second, first)):
        for kind, source in (("self_attn.q_proj", attention), ("mlp.up_proj", mlp)):
            name = f"model.layers.{layer}.{kind}.weight"
            torch.testing.assert_close(merged[name], source[name], rtol=1e-5, atol=1e-6)
