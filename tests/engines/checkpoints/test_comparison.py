"""Differences between checkpoints."""

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


# ----------------------------------------------------------------------------------------------- differing settings


def settings(tmp_path, **configs):
    return differing_settings({name: read_layout(write(tmp_path / name, **config)) for name, config in configs.items()})


OLD = {"rope_theta": 10000.0, "rope_scaling": None, "sliding_window": 4096, "transformers_version": "4.36.0"}
NEW = {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "sliding_window": 4096}


@pytest.mark.parametrize("base", [OLD, NEW])
@pytest.mark.parametrize("form", ["old", "new"])
def test_the_instruct_model_of_the_paper_has_another_rope_theta(tmp_path, base, form):
    """Mistral-7B-v0.1 and Instruct-v0.2, written by transformers 4 and 5."""
    theta = {"rope_theta": 1000000.0, "rope_scaling": None}
    if form == "new":
        theta = {"rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}}
    found = settings(tmp_path, one=base, Instruct={**theta, "sliding_window": None, "max_position_embeddings": 32768})
    assert found == {
        "rope_theta": {"one": 10000.0, "Instruct": 1000000.0},
        "sliding_window": {"one": 4096, "Instruct": None},
    }


def test_the_two_forms_of_one_setting_are_equal(tmp_path):
    assert settings(tmp_path, old=OLD, new=NEW) == {}
    scaled = {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 10000.0}
    new = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000}}
    assert settings(tmp_path / "scaled", old=scaled, new=new) == {}
    assert settings(tmp_path / "other", plain=OLD, scaled=new) == {
        "rope_scaling.rope_type": {"plain": "default", "scaled": "linear"}
    }


def test_all_settings_of_the_architecture_are_compared(tmp_path):
    one = {"rms_norm_eps": 1e-5, "hidden_act": "silu", "max_position_embeddings": 4096, "own": [1, 2]}
    other = {"rms_norm_eps": 1e-6, "hidden_act": "gelu", "max_position_embeddings": 32768, "own": [1, 3]}
    found = settings(tmp_path, a=one, b=other, c=one, d={})
    assert found == {key: {"a": one[key], "b": other[key], "c": one[key]} for key in sorted(one)}
    assert list(found) == sorted(found)


def test_settings_of_a_text_model_within_another_are_compared(tmp_path):
    assert settings(tmp_path, a={"text_config": {"rms_norm_eps": 1e-5}}, b={"rms_norm_eps": 1e-6}) == {
        "rms_norm_eps": {"a": 1e-5, "b": 1e-6}
    }


def test_entries_that_decide_nothing_are_not_named(tmp_path):
    one = {
        "vocab_size": 10,
        "bos_token_id": 1,
        "eos_token_id": [2, 3],
        "torch_dtype": "bfloat16",
        "dtype": "float32",
        "transformers_version": "4.36.0",
        "_name_or_path": "a",
        "use_cache": True,
        "auto_map": {},
        "temperature": 1,
        "attention_dropout": 0.1,
        "resid_pdrop": 0.1,
        "initializer_range": 0.02,
        "_attn_implementation": "sdpa",
        "quantization_config": None,
        "id2label": {},
        "output_attentions": False,
        "unsloth_fixed": True,
        "num_hidden_layers": 2,
        "hidden_size": 8,
        "architectures": ["A"],
        "tie_word_embeddings": False,
    }
    other = dict.fromkeys(one, "another") | {"vocab_size": 11}
    assert settings(tmp_path, a={"model_type": "x", **one}, b={"model_type": "y", **other}) == {}
