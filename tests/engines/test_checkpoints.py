"""What the driver can tell of a checkpoint from its files alone."""

import hashlib
import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from evolve.engines.checkpoints import FileStamp, differences, fingerprint, read_config, read_layout, total_bytes
from evolve.errors import ModelError

WEIGHTS = {
    "model.embed_tokens.weight": torch.ones(10, 4, dtype=torch.bfloat16),
    "lm_head.weight": torch.ones(10, 4, dtype=torch.bfloat16),
    "model.norm.weight": torch.arange(5.0),
    "steps": torch.tensor(3),
    "model.rotary_emb.inv_freq": torch.ones(2),
}
CONFIG = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "vocab_size": 10, "hidden_size": 4}


def write(folder, weights=WEIGHTS, **config):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    save_file(weights, folder / "model.safetensors")
    return folder


def shard(folder, weights=WEIGHTS):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    places = {}
    for i, name in enumerate(weights):
        file = f"model-{i % 2 + 1:05}-of-00002.safetensors"
        places[name] = file
    for file in set(places.values()):
        save_file({name: weights[name] for name in places if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


# --------------------------------------------------------------------------------------------------------- layout


def test_the_layout_is_what_safetensors_reads(tmp_path):
    layout = read_layout(write(tmp_path / "m"))
    raw = (tmp_path / "m" / "model.safetensors").read_bytes()
    with safe_open(tmp_path / "m" / "model.safetensors", "pt") as file:
        assert set(layout.tensors) == set(file.keys())
        for name, info in layout.tensors.items():
            tensor = file.get_tensor(name)
            data = raw[info.offset : info.offset + info.size]
            assert (info.name, info.file, info.shape) == (name, "model.safetensors", tuple(tensor.shape))
            assert data == bytes(tensor.reshape(-1).view(torch.uint8).tolist())
    assert layout.files == {"model.safetensors": len(raw)}
    assert layout.tensors["steps"].elements == layout.tensors["steps"].rows == 1


def test_shards_make_one_layout(tmp_path):
    whole, parts = read_layout(write(tmp_path / "m")), read_layout(shard(tmp_path / "s"))
    assert set(parts.tensors) == set(whole.tensors)
    assert set(parts.files) == {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
    assert differences(whole, parts) is None


def test_parameters_are_floating_and_count_once(tmp_path):
    untied = read_layout(write(tmp_path / "untied"))
    assert set(untied.parameters()) == {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"}
    tied = read_layout(write(tmp_path / "tied", tie_word_embeddings=True))
    assert set(tied.parameters()) == {"model.embed_tokens.weight", "model.norm.weight"}
    assert (untied.tied, tied.tied) == (False, True)
    assert read_layout(write(tmp_path / "gemma", model_type="gemma")).tied
    assert not read_layout(write(tmp_path / "spelt", model_type="gemma", tie_word_embeddings=False)).tied
    assert read_layout(write(tmp_path / "headless", {"model.norm.weight": torch.ones(2)})).tied


def test_embeddings_are_known_by_name_and_rows(tmp_path):
    layout = read_layout(write(tmp_path / "m"))
    known = {name for name, info in layout.tensors.items() if layout.is_vocabulary(info)}
    assert known == {"model.embed_tokens.weight", "lm_head.weight"}
    stale = read_layout(write(tmp_path / "stale", vocab_size=99))
    assert not any(stale.is_vocabulary(info) for info in stale.tensors.values())
    nested = read_layout(write(tmp_path / "nested", vocab_size=None, text_config={"vocab_size": 10}))
    assert nested.is_vocabulary(nested.tensors["lm_head.weight"])


# ------------------------------------------------------------------------------------------------------- refusals


def refused(folder, words):
    for function in (read_layout, fingerprint, total_bytes):
        with pytest.raises(ModelError, match=words) as caught:
            function(folder)
        assert str(folder) in str(caught.value)


def test_folders_that_are_no_models(tmp_path):
    refused(tmp_path / "nowhere", "is not a folder")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "is not a folder")
    folder = tmp_path / "m"
    folder.mkdir()
    refused(folder, "is empty")
    (folder / "README.md").write_text("hello")
    refused(folder, r"has no config\.json")
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, "is an adapter")
    (folder / "config.json").write_text("{")
    refused(folder, r"config\.json is not valid JSON")
    (folder / "config.json").write_bytes(b"\xff\xfe\xff")
    refused(folder, r"config\.json is not valid JSON")
    (folder / "config.json").write_text("[]")
    refused(folder, "does not hold a JSON object")
    (folder / "config.json").write_text("{}")
    refused(folder, "is a model with an adapter lying in it.*: move the adapter's files")
    (folder / "adapter_config.json").unlink()
    assert read_config(folder) == {}
    refused(folder, "has no weights")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    refused(folder, "has no weights")
    (folder / "pytorch_model-00001-of-00002.bin").write_bytes(b"")
    refused(folder, "pickled weights .*refused: convert")


@pytest.mark.parametrize("keep", [0, 7, 8, 40, 200, -1, 1])
def test_weights_that_are_cut_off(tmp_path, keep):
    path = write(tmp_path / "m") / "model.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw + b"\0" if keep == 1 else raw[:keep])
    refused(tmp_path / "m", "is too long: .* but its header describes" if keep == 1 else "cut off")


def header(entries):
    raw = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(raw).to_bytes(8, "little") + raw


@pytest.mark.parametrize(
    "raw",
    [
        header(b"nonsense"),
        header(b"\xff\xff"),
        header([]),
        header({"t": 3}),
        header({"t": {"dtype": "F32", "shape": [1]}}),
        header({"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}) + b"\0" * 4,
        header({"t": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}),
        header({"t": {"dtype": "F7", "shape": [1], "data_offsets": [0, 4]}}) + b"\0" * 4,
        header({"t": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]}}) + b"\0" * 4,
    ],
)
def test_headers_that_are_damaged(tmp_path, raw):
    (write(tmp_path / "m") / "model.safetensors").write_bytes(raw)
    refused(tmp_path / "m", "damaged safetensors header")


def test_weights_that_were_never_fetched_or_are_none(tmp_path):
    path = write(tmp_path / "m") / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    refused(tmp_path / "m", "Git LFS pointer")
    path.write_bytes(header({"__metadata__": {"format": "pt"}}))
    refused(tmp_path / "m", "hold no tensor")
    path.unlink()
    path.symlink_to(tmp_path / "missing-blob")
    refused(tmp_path / "m", "has no weights")


def test_an_index_that_does_not_fit_its_shards(tmp_path):
    folder, outside = shard(tmp_path / "s"), write(tmp_path / "m")
    assert (outside / "model.safetensors").is_file()
    index = folder / "model.safetensors.index.json"
    good = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": {**good, "ghost": "model-00001-of-00002.safetensors"}}))
    refused(folder, "puts ghost into model-00001-of-00002.safetensors, which does not hold it")
    for name in ("../m/model.safetensors", "model-00003-of-00002.safetensors", ""):
        index.write_text(json.dumps({"weight_map": {**good, "steps": name}}))
        refused(folder, "names the shard")
    for text in ("{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}'):
        index.write_text(text)
        refused(folder, "has no weight_map")
    index.write_text(json.dumps({"weight_map": good}))
    (folder / "model-00002-of-00002.safetensors").unlink()
    refused(folder, "names the shard model-00002-of-00002.safetensors, which is not in the folder")


# ---------------------------------------------------------------------------------------------------- fingerprint


def test_the_fingerprint_covers_what_decides_the_models_words(tmp_path):
    folder = write(tmp_path / "m")
    kept = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer.model", "generation_config.json"]
    kept += ["chat_template.jinja", "merges.txt", "modeling_x.py", "special_tokens_map.json"]
    left = ["README.md", ".gitattributes", ".hidden.py", "pytorch_model.bin", "other.safetensors", "training_args.json"]
    for name in [*kept[2:], *left]:
        (folder / name).write_text(name)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_text("x")
    (folder / "onnx").mkdir()
    stamps = fingerprint(folder)
    assert list(stamps) == sorted([*kept, "additional_chat_templates/tool.jinja"])
    for name, stamp in stamps.items():
        raw = (folder / name).read_bytes()
        assert stamp == FileStamp(len(raw), hashlib.sha256(raw).hexdigest())
    assert total_bytes(folder) == sum(stamp.size for stamp in stamps.values())


def test_the_fingerprint_of_shards_covers_their_index(tmp_path):
    assert list(fingerprint(shard(tmp_path / "s"))) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]


def test_progress_of_a_fingerprint_ends_at_all_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("evolve.engines.checkpoints._CHUNK", 50)
    told = []
    fingerprint(shard(tmp_path / "s"), report=lambda *args: told.append(args))
    assert [entry[1] for entry in told] == sorted(entry[1] for entry in told)
    assert {entry[2] for entry in told} == {told[-1][1]} == {total_bytes(tmp_path / "s")}
    assert len(told) > 5


def test_files_of_the_hub_cache_are_known_by_their_names(tmp_path):
    snapshot, blobs = write(tmp_path / "snapshots" / "0"), tmp_path / "blobs"
    blobs.mkdir()
    claimed, plain = "a" * 64, "b" * 40
    for file, name in (("model.safetensors", claimed), ("config.json", plain)):
        (snapshot / file).rename(blobs / name)
        (snapshot / file).symlink_to(Path(os.path.relpath(blobs / name, snapshot)))
    told = []
    stamps = fingerprint(snapshot, report=lambda *args: told.append(args))
    assert stamps["model.safetensors"] == FileStamp((blobs / claimed).stat().st_size, claimed)
    assert stamps["config.json"].sha256 == hashlib.sha256((blobs / plain).read_bytes()).hexdigest()
    assert told[-1][1] == told[-1][2]


def test_a_link_to_anything_else_is_hashed(tmp_path):
    folder, name = write(tmp_path / "m"), "a" * 64
    (folder / "model.safetensors").rename(tmp_path / name)
    (folder / "model.safetensors").symlink_to(tmp_path / name)
    assert fingerprint(folder)["model.safetensors"].sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


# ---------------------------------------------------------------------------------------------------- differences


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


def test_a_single_file_beside_an_index_of_others_is_refused(tmp_path):
    """transformers would take the file, and mergekit the shards."""
    folder = shard(tmp_path / "m")
    save_file(WEIGHTS, folder / "model.safetensors")
    refused(folder, "an index of other weights: remove the one that is not meant")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(WEIGHTS, "model.safetensors")})
    )
    assert set(read_layout(folder).files) == {"model.safetensors"}
