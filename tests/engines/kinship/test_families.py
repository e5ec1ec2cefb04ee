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


@pytest.mark.parametrize(
    ("kind", "experts"),
    [
        ("mixtral", {"num_local_experts": 3}),
        ("qwen2_moe", {"num_experts": 3, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}),
        ("qwen3_moe", {"num_experts": 3, "moe_intermediate_size": 16}),
    ],
)
def test_stacked_experts_are_compared_with_experts_of_their_own(lab, kind, experts):
    """Released models store one tensor for each matrix of an expert, merged models one for all experts of a layer."""
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    for seed, name in enumerate(("base", "a", "b", "stacked")):
        config = AutoConfig.for_model(kind, **SIZES, **experts)
        torch.manual_seed(min(seed, 2))
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(lab.folder / name)
    weights = {key: weight.clone().contiguous() for key, weight in model.state_dict().items()}
    save_file(weights, lab.folder / "stacked" / "model.safetensors")
    plain, mixed, own = lab.measure(pairs=[("a", "b"), ("a", "stacked"), ("b", "stacked")]).pairs
    assert (plain.left_out, plain.parameters) == ((), sum(weight.numel() for weight in model.parameters()))
    assert (mixed.pcc, mixed.cs, mixed.ed, mixed.parameters) == (plain.pcc, plain.cs, plain.ed, plain.parameters)
    assert (own.ed, own.left_out, own.pcc) == (0, (), pytest.approx(1))
