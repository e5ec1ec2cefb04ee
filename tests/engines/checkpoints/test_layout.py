"""Layouts: the tensors of a checkpoint, and damaged or incomplete folders."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from evolve.engines.checkpoints import differences, fingerprint, read_config, read_layout
from evolve.errors import ModelError
from tests.engines.checkpoints._files import WEIGHTS, shard, write


def test_the_layout_equals_that_of_safetensors(tmp_path):
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


def refused(folder, words):
    for function in (read_layout, fingerprint):
        with pytest.raises(ModelError, match=words) as caught:
            function(folder)
        assert str(folder) in str(caught.value)


def test_folders_that_are_not_models(tmp_path):
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
    refused(folder, "holds a model and an adapter; transformers would apply .*: move the adapter's files")
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
        header(b"[" * 200_000),
        header(b'{"t": ' * 200_000),
        header({"t": {"dtype": "U8", "shape": [0], "data_offsets": [int("1" * 400)] * 2}}),
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


@pytest.mark.parametrize(
    "entries",
    [{"model_type": ["mistral"]}, {"vocab_size": {}}, {"vocab_size": True}, {"text_config": {"vocab_size": [10]}}],
)
def test_settings_of_a_wrong_type(tmp_path, entries):
    refused(write(tmp_path / "m", **entries), "it must be")


def test_an_index_of_a_wrong_type_beside_a_single_file(tmp_path):
    folder = write(tmp_path / "m")
    for text in ('{"weight_map": [1]}', '{"weight_map": {"a": [1]}}', '{"weight_map": 3}'):
        (folder / "model.safetensors.index.json").write_text(text)
        refused(folder, "an index of other weights")


def test_a_name_of_a_shard_that_is_too_long(tmp_path):
    folder = shard(tmp_path / "s")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "x" * 300}}))
    refused(folder, "names the shard")


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    folder = shard(tmp_path / "s")
    index = folder / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    save_file(WEIGHTS, folder / "model-00002-of-00002.safetensors")
    refused(folder, "in model-00001-of-00002.safetensors and in model-00002-of-00002.safetensors")

    name, other = "model.norm.weight", "model-00002-of-00002.safetensors"
    index.write_text(json.dumps({"weight_map": places})[:-2] + f', "{name}": "{other}"}}}}')
    refused(folder, f"it has the key '{name}' twice")


def test_a_single_file_beside_an_index_of_others_is_refused(tmp_path):
    """transformers would take the file, and mergekit the shards."""
    folder = shard(tmp_path / "m")
    save_file(WEIGHTS, folder / "model.safetensors")
    refused(folder, "an index of other weights: remove one of the two")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(WEIGHTS, "model.safetensors")})
    )
    assert set(read_layout(folder).files) == {"model.safetensors"}
