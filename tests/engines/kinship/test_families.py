"""The families of models that transformers makes: tiny ones, saved by it and measured from their files."""

import pytest
import torch

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.mark.parametrize("kind", ["mistral", "llama", "qwen2", "qwen3", "gemma", "phi3", "gpt_neox"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_family_is_measured_over_the_parameters_that_transformers_counts(lab, tools, kind, tied):
    from transformers import AutoConfig, AutoModelForCausalLM

    parameters = {}
    for seed, (name, rows) in enumerate({"base": 40, "a": 41, "b": 42}.items()):
        config = AutoConfig.for_model(kind, **{**SIZES, "vocab_size": rows}, tie_word_embeddings=tied)
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        folder = lab.folder / name
        model.save_pretrained(folder)
        tools.write(lab.folder / "tokenizer" / name, {}, tokens=[f"w{i}" for i in range(rows)])
        (lab.folder / "tokenizer" / name / "tokenizer.json").rename(folder / "tokenizer.json")
        heads = {id(m.weight) for m in (model.get_input_embeddings(), model.get_output_embeddings())}
        parameters[name] = [(p[:40] if id(p) in heads else p).detach() for p in model.parameters()]
        assert len(heads) == 1 + (not tied)
    found = lab.measure("a", "b").pairs[0]
    expected = tools.textbook(*parameters.values())
    assert (found.pcc, found.cs, found.ed) == pytest.approx(expected[:3], rel=1e-9, abs=1e-12)
    assert found.parameters == expected[3]
    assert [rows for _, rows, _ in found.left_out] == [2] * (1 + (not tied))
