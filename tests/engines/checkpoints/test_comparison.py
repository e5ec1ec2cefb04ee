"""What makes two checkpoints differ."""

import re

import pytest
import torch

from evolve.engines.checkpoints import differences, differing_settings, read_layout
from tests.engines.checkpoints._files import WEIGHTS, write


def test_models_of_one_architecture_differ_in_nothing(tmp_path):
    a = read_layout(write(tmp_path / "a", head_dim=None))
    longer = {name: torch.ones(12, 4) if t.shape == (10, 4) else t for name, t in WEIGHTS.items() if name != "steps"}
    b = read_layout(write(tmp_path / "b", longer, vocab_size=12, head_dim=8))
    assert differences(a, b) is None
    assert differences(b, a) is None


@pytest.mark.parametrize(
    ("config", "weights", "words"),
    [
        ({"model_type": "llama"}, {}, "model_type: mistral and llama"),
        ({"num_hidden_layers": 3}, {}, "num_hidden_layers: 2 and 3"),
        ({"hidden_size": 8}, {}, "hidden_size: 4 and 8"),
        ({"tie_word_embeddings": True}, {}, "output embeddings: only /.*/b ties them"),
        ({}, {"extra": torch.ones(3)}, "tensors: only /.*/b has extra"),
        ({}, {"model.norm.weight": torch.ones(6)}, r"shape of model.norm.weight: \[5\] and \[6\]"),
        ({}, {"model.norm.weight": torch.ones(5, 1)}, r"shape of model.norm.weight: \[5\] and \[5, 1\]"),
        ({}, {"lm_head.weight": torch.ones(10, 5)}, r"shape of lm_head.weight: \[10, 4\] and \[10, 5\]"),
        ({}, {"lm_head.weight": torch.ones(11, 4)}, r"shape of lm_head.weight: \[10, 4\] and \[11, 4\]"),
    ],
)
def test_the_first_difference_is_said_in_a_sentence(tmp_path, config, weights, words):
    a = read_layout(write(tmp_path / "a", num_hidden_layers=2))
    b = read_layout(write(tmp_path / "b", {**WEIGHTS, **weights}, **{"num_hidden_layers": 2, **config}))
    sentence = differences(a, b)
    assert sentence.startswith(f"{tmp_path / 'a'} and {tmp_path / 'b'} differ in ")
    assert re.search(words, sentence)


