"""Five generations of models whose foundations have different vocabularies."""

from __future__ import annotations

import json

import pytest

from tests.engines.merging import _models as tiny

TOKENS = {"[PAD]", "<|end_of_turn|>", "<|pad_0|>"}


def vocabulary(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder).get_vocab()


def settings(folder, name="config.json"):
    return json.loads((folder / name).read_text())


def merge_generations(mixed, child, setting, recipe="slerp-gradient"):
    """Merge the youngest child with a foundation or an older child, each as parent 1 in turn; return the children."""
    models = [mixed.a, mixed.b, mixed.c]
    pairs = [(0, 2), (1, 3), (4, 2), (3, 5), (6, 0)]
    for generation, (first, second) in enumerate(pairs, start=1):
        parents = (models[first], models[second])
        models.append(
            child(parents, mixed.base, recipe=recipe, tokenizer=setting, name=f"model-{generation}", dtype="bfloat16")
        )
    return models[3:]


@pytest.mark.parametrize("recipe", ["slerp-gradient", "ties"])
def test_by_default_no_token_is_lost(mixed, child, recipe):
    for folder in merge_generations(mixed, child, "auto", recipe):
        tokens = vocabulary(folder)
        assert tokens.keys() >= TOKENS
        assert settings(folder)["vocab_size"] == len(tokens) == tiny.WORDS + 3
        assert sorted(tokens.values()) == list(range(len(tokens)))
        assert tiny.weights(folder)["model.embed_tokens.weight"].shape == (len(tokens), tiny.HIDDEN)
        tiny.generate(folder)


@pytest.mark.parametrize("setting", ["base", "first"])
def test_other_choices_of_tokenizer_give_working_models(mixed, child, setting):
    for folder in merge_generations(mixed, child, setting):
        tokens = vocabulary(folder)
        assert settings(folder)["vocab_size"] == len(tokens)
        for name in ("config.json", "generation_config.json"):
            for kind in ("bos", "eos", "pad"):
                number = settings(folder, name).get(f"{kind}_token_id")
                assert number is None or number in tokens.values(), (folder.name, name, kind)
        tiny.generate(folder)
    if setting == "base":
        assert tokens == vocabulary(mixed.base)


def test_a_row_of_one_parent_only_comes_from_that_parent(mixed, child):
    import torch

    merged = child((mixed.b, mixed.c), mixed.base)
    number, original = vocabulary(merged)["<|end_of_turn|>"], vocabulary(mixed.c)["<|end_of_turn|>"]
    one, two = tiny.weights(merged)["lm_head.weight"][number], tiny.weights(mixed.c)["lm_head.weight"][original]
    # mergekit gives both parents that row, then interpolates whole tensors: the row keeps its direction
    assert torch.cosine_similarity(one, two, dim=0) > 0.9999


def test_a_child_of_chat_models_ends_its_turns(mixed, child):
    merged = child((mixed.c, mixed.a), mixed.base)
    end = vocabulary(merged)["<|end_of_turn|>"]
    assert settings(merged)["eos_token_id"] == settings(merged, "generation_config.json")["eos_token_id"] == end
    assert "<|end_of_turn|>" in (merged / "chat_template.jinja").read_text()


def test_an_end_token_that_the_child_lacks_is_replaced(mixed, child):
    """OpenChat's end token 32000 would be beyond the vocabulary of the base: no generation would end."""
    merged = child((mixed.c, mixed.a), mixed.base, tokenizer="base")
    assert settings(merged)["eos_token_id"] == settings(merged, "generation_config.json")["eos_token_id"] == 2
    merged = child((mixed.a, mixed.c), mixed.base, tokenizer="base", name="other")
    assert settings(merged)["pad_token_id"] is None


def test_the_chat_template_of_parent_1_is_kept(mixed, child):
    merged = child((mixed.b, mixed.c), mixed.base, recipe="task-arithmetic")
    assert (merged / "chat_template.jinja").read_text() == (mixed.b / "chat_template.jinja").read_text()


def test_plain_merging_of_different_vocabularies_fails(mixed, child):
    from evolve.errors import MergeError

    with pytest.raises(MergeError, match=r"Tensor size mismatch for .*tokenizer: \{source: base\}"):
        child((mixed.a, mixed.c), mixed.base, tokenizer=None)
