"""Token ids that are encoded in batches and kept are those of lm-eval's own methods."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.models.huggingface import HFLM

from evolve.engines.evaluation import encoding, tokens
from evolve.engines.evaluation.tokens import kept_tokens

from . import _world

WORDS = ["Ann", " sold", " a", "cup", " ", "\n", "<s>", "</s>", "é", "日本", "🙂", "  ", "1", "23", ".", "\x00", "Ġ"]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=6).map("".join)


@pytest.fixture(autouse=True)
def _new_process() -> Iterator[None]:
    tokens._kept.clear()
    yield
    tokens._kept.clear()


def byte_level(special: bool):
    """Return a BPE tokenizer whose merges cross words; with `special` it adds a token at the beginning."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<s>", "</s>"], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    bpe.train_from_iterator(["Ann sold a cup . Ann sold a boat ."] * 3, trainer)
    if special:
        bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return bpe


def metaspace():
    """Return a tokenizer in the manner of sentencepiece: a space before the text, merges over the whole text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers

    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Metaspace()
    alphabet = sorted(set("".join(WORDS)) - {" "})
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<s>", "</s>", "<unk>"], initial_alphabet=[*alphabet, "▁"]
    )
    bpe.train_from_iterator(["Ann sold a cup.\nAnn sold 123 boats."] * 3, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return bpe


def lm_of(backend, add_bos_token=None, prefix=None) -> HFLM:
    """Return lm-eval's model class with a tokenizer and no model."""
    from transformers import PreTrainedTokenizerFast

    lm = object.__new__(HFLM)
    lm.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    lm.backend, lm.add_bos_token, lm.custom_prefix_token_id = "causal", add_bos_token, prefix
    return lm


BACKENDS = {"byte-level": lambda: byte_level(False), "with bos": lambda: byte_level(True), "metaspace": metaspace}


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request):
    return BACKENDS[request.param]()


def instance(*arguments, kind="loglikelihood"):
    return SimpleNamespace(request_type=kind, args=arguments)


@pytest.mark.parametrize("options", [{}, {"add_bos_token": True}, {"add_bos_token": False}, {"prefix": 1}])
@given(pairs=st.lists(st.tuples(TEXTS.filter(bool), TEXTS), max_size=8), texts=st.lists(TEXTS, max_size=4))
@settings(max_examples=40, deadline=None)
def test_batches_give_the_ids_of_lm_eval(backend, options, pairs, texts):
    tokens._kept.clear()
    lm = lm_of(backend, **options)
    expected = [HFLM._encode_pair(lm, *pair) for pair in pairs], [HFLM.tok_encode(lm, text) for text in texts]
    asked = [instance(*pair) for pair in pairs] + [instance(text, {}, kind="generate_until") for text in texts]
    for _ in range(2):
        with kept_tokens(lm, "task", None, lambda: asked):
            found = [lm._encode_pair(*pair) for pair in pairs], [lm.tok_encode(text) for text in texts]
        assert found == expected
        assert not vars(lm).keys() & {"_encode_pair", "tok_encode"}


def test_what_is_not_kept_is_encoded_by_lm_eval():
    lm = lm_of(byte_level(True))
    text = "Ann sold a cup"
    expected = [
        HFLM.tok_encode(lm, text, add_special_tokens=False),
        HFLM.tok_encode(lm, text, left_truncate_len=2),
        HFLM.tok_encode(lm, "other"),
        HFLM._encode_pair(lm, "other ", "x"),
    ]
    with kept_tokens(lm, "task", None, lambda: [instance(text, kind="loglikelihood_rolling"), instance("", text)]):
        assert [
            lm.tok_encode(text, add_special_tokens=False),
            lm.tok_encode(text, left_truncate_len=2),
            lm.tok_encode("other"),
            lm._encode_pair("other ", "x"),
        ] == expected


def test_each_context_is_encoded_once(monkeypatch):
    lm = lm_of(byte_level(True))
    seen: list[str] = []
    batch = encoding.Encoder._batch
    monkeypatch.setattr(
        encoding.Encoder, "_batch", lambda self, strings: (seen.extend(strings), batch(self, strings))[1]
    )
    pairs = [(f"Ann sold {number}", f" {choice}") for number in range(3) for choice in "abcd"]
    for _ in range(2):
        with kept_tokens(lm, "task", None, lambda: [instance(*pair) for pair in pairs]):
            found = [lm._encode_pair(*pair) for pair in pairs]
    assert sorted(seen) == sorted({context for context, _ in pairs} | {"".join(pair) for pair in pairs})
    assert found == [HFLM._encode_pair(lm, *pair) for pair in pairs]


def ask(lm: HFLM, folder: Path, count: int = 6) -> list:
    """Return the ids of some requests as another process finds them."""
    tokens._kept.clear()
    pairs = [(f"Ann sold {number // 2} cups", f" a{number}") for number in range(count)]
    with kept_tokens(lm, "task", folder, lambda: [instance(*pair) for pair in pairs]):
        found = [lm._encode_pair(*pair) for pair in pairs]
    assert found == [HFLM._encode_pair(lm, *pair) for pair in pairs]
    return found


@pytest.fixture
def no_encoding(monkeypatch):
    """Return a function that lets every later encoding of a text fail."""

    def refuse(_, strings):
        assert not strings, "texts are encoded again"
        return []

    return lambda: monkeypatch.setattr(encoding.Encoder, "_batch", refuse)


def test_ids_are_kept_on_disk_and_extended(tmp_path, no_encoding):
    lm = lm_of(byte_level(True))
    ask(lm, tmp_path, 4)
    found = ask(lm, tmp_path, 9)
    assert len(list(tmp_path.iterdir())) == 1
    no_encoding()
    assert ask(lm, tmp_path, 9) == found
    assert ask(lm, tmp_path, 3) == found[:3]


def test_only_an_equal_tokenizer_finds_the_ids(tmp_path, no_encoding):
    first = lm_of(byte_level(True))
    ask(first, tmp_path)
    more = byte_level(True)
    more.add_tokens(["sold"])
    others = [lm_of(byte_level(False)), lm_of(byte_level(True), False), lm_of(byte_level(True), prefix=1), lm_of(more)]
    for other in others:
        ask(other, tmp_path)
    assert len(list(tmp_path.iterdir())) == 5
    no_encoding()
    again = lm_of(byte_level(True))
    again.tokenizer(["Ann", "Ann sold"], padding="longest", truncation=True, max_length=3)
    padding = again.tokenizer.backend_tokenizer.padding, again.tokenizer.backend_tokenizer.truncation
    assert all(padding)
    hashed = encoding.Encoder(again).tokenizer_hash()
    assert (again.tokenizer.backend_tokenizer.padding, again.tokenizer.backend_tokenizer.truncation) == padding
    assert hashed == encoding.Encoder(first).tokenizer_hash()
    for lm in (again, *others):
        ask(lm, tmp_path)


@pytest.mark.parametrize("wrong", [-1, 10**6])
def test_ids_that_the_tokenizer_does_not_have_are_refused(wrong, tmp_path, caplog):
    lm = lm_of(byte_level(True))
    ask(lm, tmp_path)
    (file,) = tmp_path.iterdir()
    stem = file.name.rpartition("-")[0]
    known = tokens.read_table(tmp_path, stem, tokens._schema(), lambda table: tokens._of_table(table, 1000))
    known = {key: (first + wrong, rest) for key, (first, rest) in known.items()}
    file.unlink()
    tokens.write_table(tmp_path, stem, tokens._table(known))
    ask(lm, tmp_path)
    assert "a token is not of the tokenizer" in caplog.text


def test_a_tokenizer_or_a_class_of_another_kind_is_left_alone(tmp_path):
    class Other(HFLM):
        def tok_encode(self, string, add_special_tokens=None, left_truncate_len=None, **kwargs):
            return [5]

    lm = lm_of(byte_level(True))
    lm.__class__ = Other
    with kept_tokens(lm, "task", tmp_path, list):
        assert not vars(lm).keys() & {"_encode_pair", "tok_encode"}

    slow = lm_of(byte_level(True))

    class Slow(type(slow.tokenizer)):
        def encode(self, text, **options):
            return super().encode(text, **options)[::-1]

    slow.tokenizer.__class__ = Slow
    ask(slow, tmp_path)
    assert not list(tmp_path.iterdir())


def test_ids_of_a_few_tokenizers_and_of_the_present_tasks_stay_in_memory():
    for number in range(6):
        backend = byte_level(True)
        backend.add_tokens([f"token-{number}"])
        lm = lm_of(backend)
        with kept_tokens(lm, "task", None, lambda: [instance("Ann", " sold")]):
            lm.tok_encode("x")
    assert len(tokens._kept["task"]) == tokens._TOKENIZERS
    tokens.forget_tokens_but(["other"])
    assert not tokens._kept


def test_scores_and_samples_are_those_of_the_ids_of_lm_eval(model, data, tmp_path, monkeypatch):
    three = _world.three_tasks(data, limit=4)
    kept = _world.score(model, three, tmp_path / "kept")
    monkeypatch.setattr(tokens, "_encodes_as_hf", lambda _: False)
    plain = _world.score(model, three, tmp_path / "plain")
    assert kept.scores == plain.scores
    assert _world.samples_of(tmp_path / "kept") == _world.samples_of(tmp_path / "plain")
