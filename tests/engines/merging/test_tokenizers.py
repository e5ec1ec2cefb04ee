"""The tokenizer in a recipe, by the setting and the vocabularies of the models."""

from __future__ import annotations

import json

import pytest

from evolve.engines.merging import resolve_tokenizer
from evolve.errors import ModelError


@pytest.fixture
def model(tmp_path):
    """Return a function that writes the JSON files of a model and returns its folder."""

    def write(name, *, rows=2, added=()):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"vocab_size": rows}))
        tokens = [{"content": token, "id": number} for token, number in added]
        content = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": tokens}
        (folder / "tokenizer.json").write_text(json.dumps(content))
        return folder

    return write


def test_equal_rows_of_different_tokens_are_aligned(model):
    """Otherwise the merge would blend the rows of [PAD] and of an end-of-turn token without a word."""
    one, two = model("one", rows=3, added=[("[PAD]", 2)]), model("two", rows=3, added=[("<|end_of_turn|>", 2)])
    assert resolve_tokenizer("auto", [one, two]) == "union"


@pytest.mark.parametrize(
    ("setting", "source"), [(None, None), ("auto", "union"), ("union", "union"), ("base", "base"), ("first", "first")]
)
def test_settings_where_vocabularies_differ(model, setting, source):
    one, two = model("one"), model("two", rows=3)
    assert resolve_tokenizer(setting, [one, two]) == resolve_tokenizer(setting, [one, two], base=one) == source


@pytest.mark.parametrize("setting", [None, "auto", "union", "first"])
def test_no_tokenizer_is_named_where_vocabularies_are_equal(model, setting):
    assert resolve_tokenizer(setting, [model("one"), model("two")]) is None


def test_the_vocabulary_of_the_base_matters_if_it_is_configured(model):
    models, other = [model("one"), model("two")], model("other", rows=3)
    assert resolve_tokenizer("base", models, base=models[0]) is None
    assert resolve_tokenizer("base", models, base=other) == "base"
    assert resolve_tokenizer("base", models) == "base"


def test_unreadable_files_are_named(model):
    folder = model("one")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"the tokenizer in .*/one cannot be read"):
        resolve_tokenizer("auto", [folder, model("two")])
