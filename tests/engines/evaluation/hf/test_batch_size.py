"""Batch size `auto`: the rows that a device holds, found once per process."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from evolve.engines.evaluation.hf import batch_size
from evolve.engines.evaluation.hf.batch_size import find_batch_size
from tests.engines.evaluation import _world


class Limited(torch.nn.Module):
    """A model on a device with memory for some tokens; the logits of all tokens need three times as much."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(5))
        self.dtype = torch.float32
        self.tokens = tokens
        self.tried: list[int] = []

    def forward(self, input_ids, use_cache, logits_to_keep=0):
        self.tried.append(len(input_ids))
        if input_ids.numel() * (1 if logits_to_keep else 3) > self.tokens:
            raise torch.cuda.OutOfMemoryError
        return SimpleNamespace(logits=torch.zeros(len(input_ids), 1, 2))


@pytest.fixture
def limited(monkeypatch):
    """A function that returns lm-eval's model object for a model on the meta device, which is no CPU."""
    monkeypatch.setattr(batch_size, "_found", {})
    return lambda tokens: SimpleNamespace(device="meta", max_length=100, max_batch_size=48, model=Limited(tokens))


def test_the_largest_power_of_two_of_rows_that_fits(limited):
    lm = limited(1000)
    assert find_batch_size(lm, all_logits=False) == 8
    assert lm.model.tried == [32, 16, 8]
    assert find_batch_size(lm, all_logits=True) == 2
    assert find_batch_size(limited(10**6), all_logits=False) == 8  # of one shape: found before


def test_at_most_the_configured_number(limited):
    assert find_batch_size(limited(10**6), all_logits=False) == 32


def test_a_device_that_does_not_hold_one_row(limited):
    with pytest.raises(torch.cuda.OutOfMemoryError):
        find_batch_size(limited(99), all_logits=False)


def test_a_class_that_computes_all_logits(limited):
    """It takes no `logits_to_keep`, as code from the Hub may not."""
    lm = limited(1000)
    forward = lm.model.forward

    def without_the_argument(input_ids, use_cache):
        return forward(input_ids, use_cache)

    lm.model.forward = without_the_argument
    assert find_batch_size(lm, all_logits=False) == 2


@pytest.mark.parametrize(("most", "rows"), [(64, 16), (5, 5)])
def test_the_result_has_the_size_that_was_found(model, data, tmp_path, most, rows):
    three = _world.three_tasks(data, limit=3)
    arguments = {"dtype": "float32", "max_batch_size": most}
    found = _world.score(model, three, tmp_path / "auto", batch_size="auto", model_args=arguments)
    assert found.batch_size == rows
    fixed = _world.score(model, three, tmp_path / "fixed", batch_size=3)
    assert fixed.batch_size == 3
    for task, score in fixed.scores.items():
        assert found.scores[task].value == pytest.approx(score.value, abs=1e-4)
