"""Token-to-row maps, compared with what transformers loads, and whether vocabularies are the same."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from evolve.engines.checkpoints import check_tokenizer, same_vocabulary, token_rows
from evolve.errors import ModelError

VOCABULARY = {"<unk>": 0, "a": 1, "b": 2, "ab": 3}
FLAGS = {"special": True, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
NOTHING = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")


@pytest.fixture
def model(tmp_path):
    """Writes the JSON files of a model and returns its folder."""

    def write(
        name="model",
        *,
        whole=True,
        vocabulary=VOCABULARY,
        tokens=(),
        decoder=None,
        added=None,
        raw=None,
        rows=4,
        family="gpt2",
        kind="PreTrainedTokenizerFast",
    ):
        folder = tmp_path / name
        folder.mkdir()
        settings = {"tokenizer_class": kind, "unk_token": "<unk>"}
        if kind != "PreTrainedTokenizerFast":
            settings |= dict.fromkeys(("bos_token", "eos_token", "pad_token"), "<unk>")
        if decoder is not None:
            settings["added_tokens_decoder"] = {str(n): {"content": token, **FLAGS} for token, n in decoder.items()}
        if added is not None:
            (folder / "added_tokens.json").write_text(json.dumps(added))
        if whole:
            unigram = isinstance(vocabulary, list)
            body = {"type": "Unigram", "unk_id": 0} if unigram else {"type": "BPE", "merges": [["a", "b"]]}
            listed = [{"id": n, "content": token, **FLAGS} for token, n in tokens]
            content = {"version": "1.0", **dict.fromkeys(NOTHING), "added_tokens": listed}
            (folder / "tokenizer.json").write_text(json.dumps(content | {"model": body | {"vocab": vocabulary}}))
        elif raw is not None:
            (folder / "tokenizer.model").write_bytes(raw)
        elif vocabulary is not None:
            (folder / "vocab.json").write_text(json.dumps(vocabulary))
            (folder / "merges.txt").write_text("#version: 0.2\na b\n")
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        (folder / "config.json").write_text(json.dumps({"model_type": family, "vocab_size": rows}))
        return folder

    return write


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"decoder": {"<unk>": 0}},
        {"decoder": {"<x>": 4}},
        {"decoder": {"<x>": 9}},  # the row is the next free one
        {"decoder": {"<x>": 2}},  # a row of the vocabulary is never taken over
        {"decoder": {"<y>": 12, "<x>": 11}},
        {"decoder": {"ab": 3, "<x>": 4}},
        {"added": {"<x>": 4}},
        {"added": {"<y>": 12, "<x>": 11}},
        {"added": {"<x>": 4}, "decoder": {"<y>": 4}},  # tokenizer_config.json wins
        {"added": {"<x>": 4}, "decoder": {}},
        {"tokens": [("<s>", 4)]},
        {"tokens": [("<s>", 4)], "decoder": {"<s>": 4, "<x>": 5}},
        {"tokens": [("<s>", 4)], "added": {"<x>": 5}},
        {"tokens": [("<over>", 0)]},
        {"tokens": [("<gap>", 9), ("<n>", 4)]},
        {"tokens": [("ab", 3)]},
        {"vocabulary": {"<unk>": 0, "a": 5, "b": 6, "ab": 7}, "tokens": [("ab", 7), ("<x>", 8)]},
        {"vocabulary": [["<unk>", 0.0], ["a", -1.0], ["b", -2.0]], "tokens": [("<s>", 3)]},
    ],
    ids=str,
)
def test_rows_are_those_that_transformers_loads(model, files):
    from transformers import AutoTokenizer

    folder = model(**files)
    assert token_rows(folder) == AutoTokenizer.from_pretrained(folder).get_vocab()
    if "tokens" not in files:  # vocab.json has none
        plain = model("plain", whole=False, kind="GPT2Tokenizer", **files)
        assert token_rows(plain) == AutoTokenizer.from_pretrained(plain).get_vocab()


def test_a_folder_without_a_tokenizer_has_no_rows(tmp_path):
    assert token_rows(tmp_path) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"model": {}}', '{"model": {"vocab": 3}}', '{"model": {"vocab": [3]}}'])
def test_a_damaged_tokenizer_is_refused(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ModelError, match=r"tokenizer in .* cannot be read .*: download the model again"):
        token_rows(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        '{"model": null}',
        '{"model": []}',
        '{"model": {"vocab": {"a": 0}}, "added_tokens": 5}',
        '{"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": 5}]}',
        '{"model": {"vocab": [[5, 0.0]]}}',
        '{"model": {"vocab": {"a": 1.5}}}',
        '{"model": {"vocab": {"a": true}}}',
        '{"model": {"vocab": {"a": -1}}}',
        f'{{"model": {{"vocab": {{"a": {2**32}}}}}}}',
        f'{{"model": {{"vocab": {{"a": {"1" * 400}}}}}}}',
        '{"model": ' * 200_000,
    ],
)
def test_a_tokenizer_that_the_library_refuses_is_refused(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    for read in (token_rows, check_tokenizer):
        with pytest.raises(ModelError, match=r"the tokenizer in .* cannot be read .*: download the model again"):
            read(tmp_path)


@pytest.mark.parametrize("number", ["-1", "1.5", "null", str(2**32)])
def test_numbers_of_added_tokens_that_are_refused(model, number):
    folder = model()
    (folder / "tokenizer_config.json").write_text(f'{{"added_tokens_decoder": {{"{number}": {{"content": "x"}}}}}}')
    with pytest.raises(ModelError, match=r"the tokenizer in .* cannot be read"):
        token_rows(folder)
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "added_tokens.json").write_text(f'{{"x": {number}}}')
    with pytest.raises(ModelError, match=r"the tokenizer in .* cannot be read"):
        token_rows(folder)


def test_a_sound_tokenizer_is_accepted(model, tmp_path):
    check_tokenizer(model())
    check_tokenizer(tmp_path)  # there is none


def test_a_sentencepiece_model_is_opened_by_transformers(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["hello world the cat", "a b c d e f g hello the"]),
        model_writer=written,
        model_type="bpe",
        byte_fallback=True,
        vocab_size=290,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    expected = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    (tmp_path / "tokenizer.model").write_bytes(written.getvalue())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mistral"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[PAD]": len(expected)}))
    assert token_rows(tmp_path) == {**expected, "[PAD]": len(expected)}
    (tmp_path / "tokenizer.model").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=r"has no tokenizer\.json and transformers cannot open it"):
        token_rows(tmp_path)


# ------------------------------------------------------------------------------------------------- same_vocabulary


def test_equal_vocabularies(model):
    one = model("one")
    nested = model("nested")
    (nested / "config.json").write_text(json.dumps({"text_config": {"vocab_size": 4}}))
    assert same_vocabulary([one, model("two", decoder={"ab": 3}), nested, model("three", tokens=[("ab", 3)])])


@pytest.mark.parametrize(
    "other",
    [
        {"rows": 5},
        {"vocabulary": {"<unk>": 0, "a": 2, "b": 1, "ab": 3}},
        {"vocabulary": {"<unk>": 0, "a": 1, "b": 2}},
        {"tokens": [("<x>", 4)]},
        {"decoder": {"<x>": 4}},
        {"added": {"<x>": 4}},
        {"whole": False, "vocabulary": None},
        {"whole": False, "raw": b"x"},
    ],
    ids=str,
)
def test_different_vocabularies(model, other):
    assert not same_vocabulary([model("one"), model("two", **other)])


def test_different_tokens_in_the_same_row_differ(model):
    one, two = model("one", rows=5, decoder={"[PAD]": 4}), model("two", rows=5, decoder={"<|end_of_turn|>": 4})
    assert not same_vocabulary([one, two])


def test_a_unigram_model_numbers_its_pieces_in_order(model):
    pieces = [[token, -1.0] for token in VOCABULARY]
    assert same_vocabulary([model("one"), model("two", vocabulary=pieces)])


def test_vocab_json_is_compared_with_tokenizer_json(model):
    assert same_vocabulary([model("one"), model("two", whole=False)])


def test_old_tokenizers_are_compared_by_their_files(model):
    one, two = model("one", whole=False, raw=b"x"), model("two", whole=False, raw=b"x")
    both = model("both")
    (both / "tokenizer.model").write_bytes(b"x")
    assert same_vocabulary([one, two])
    assert same_vocabulary([one, both])
    assert not same_vocabulary([one, model("three", whole=False, raw=b"y")])
    assert not same_vocabulary([one, model("four", whole=False, raw=b"x", decoder={"<x>": 4})])


def test_unreadable_files_are_named(model):
    folder = model()
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"the tokenizer in .* cannot be read"):
        same_vocabulary([folder])
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json cannot be read \(No such file or directory\)"):
        same_vocabulary([folder])


def test_json_files_are_read_without_transformers(model):
    code = (
        "import sys; from pathlib import Path; from evolve.engines.checkpoints import same_vocabulary, token_rows;"
        "folders = [Path(name) for name in sys.argv[1:]]; assert same_vocabulary(folders) and token_rows(folders[0]);"
        "print([name for name in ('torch', 'transformers', 'tokenizers') if name in sys.modules])"
    )
    folders = [str(model("one")), str(model("two", decoder={"ab": 3}))]
    done = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
