"""Vocabularies are told apart by what their files say."""

from __future__ import annotations

import json

import pytest

from evolve.engines.merging import resolve_tokenizer, same_vocabulary
from evolve.errors import ModelError

VOCABULARY = {"a": 0, "b": 1}


@pytest.fixture
def model(tmp_path):
    """Writes the JSON files of a model and returns its folder."""

    def write(name, *, rows=2, vocabulary=VOCABULARY, added=(), raw=None, text_config=False):
        folder = tmp_path / name
        folder.mkdir()
        config = {"vocab_size": rows}
        (folder / "config.json").write_text(json.dumps({"text_config": config} if text_config else config))
        if vocabulary is not None:
            tokens = [{"content": token, "id": number} for token, number in added]
            content = {"model": {"vocab": vocabulary}, "added_tokens": tokens}
            (folder / "tokenizer.json").write_text(json.dumps(content))
        if raw is not None:
            (folder / "tokenizer.model").write_bytes(raw)
            decoder = {str(number): {"content": token} for token, number in added}
            (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
        return folder

    return write


def test_equal_ones(model):
    assert same_vocabulary([model("one"), model("two", text_config=True), model("three")])


@pytest.mark.parametrize(
    "other",
    [
        {"rows": 3},
        {"vocabulary": {"a": 1, "b": 0}},
        {"vocabulary": {"a": 0}},
        {"added": [("<x>", 1)]},
        {"vocabulary": None},
        {"vocabulary": None, "raw": b"x"},
    ],
)
def test_different_ones(model, other):
    assert not same_vocabulary([model("one"), model("two", **other)])


def test_equal_rows_of_different_tokens_are_different(model):
    """The silent case: a merge would go through and blend [PAD] with an end-of-turn token."""
    one, two = model("one", rows=3, added=[("[PAD]", 2)]), model("two", rows=3, added=[("<|end_of_turn|>", 2)])
    assert resolve_tokenizer("auto", [one, two]) == "union"


def test_an_added_token_that_is_in_the_vocabulary_makes_no_difference(model):
    assert same_vocabulary([model("one"), model("two", added=[("b", 1)])])


def test_unigram_vocabularies(model):
    assert same_vocabulary([model("one"), model("two", vocabulary=[["a", -1.0], ["b", -2.0]])])


def test_older_tokenizers_are_compared_by_their_files(model):
    one = model("one", vocabulary=None, raw=b"x")
    assert same_vocabulary([one, model("two", raw=b"x")])
    assert not same_vocabulary([one, model("three", vocabulary=None, raw=b"y")])
    assert not same_vocabulary([one, model("four", vocabulary=None, raw=b"x", added=[("<x>", 2)])])


@pytest.mark.parametrize(
    ("setting", "source"), [(None, None), ("auto", "union"), ("union", "union"), ("base", "base"), ("first", "first")]
)
def test_what_a_setting_means_where_vocabularies_differ(model, setting, source):
    one, two = model("one"), model("two", rows=3)
    assert resolve_tokenizer(setting, [one, two]) == resolve_tokenizer(setting, [one, two], base=one) == source


@pytest.mark.parametrize("setting", [None, "auto", "union", "first"])
def test_nothing_is_said_where_nothing_differs(model, setting):
    assert resolve_tokenizer(setting, [model("one"), model("two")]) is None


def test_the_vocabulary_of_the_base_counts_where_it_is_asked_for(model):
    models, other = [model("one"), model("two")], model("other", rows=3)
    assert resolve_tokenizer("base", models, base=models[0]) is None
    assert resolve_tokenizer("base", models, base=other) == "base"
    assert resolve_tokenizer("base", models) == "base"


def test_unreadable_files_are_named(model):
    folder = model("one")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"cannot read .*tokenizer\.json"):
        same_vocabulary([folder])
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"cannot read .*config\.json"):
        same_vocabulary([folder])
