"""Pickled weights converted to safetensors: equal numbers, no code run, damage refused."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from evolve.engines.checkpoints import differences, fingerprint, is_pickled, read_layout
from evolve.engines.pickled import convert, pickled_files, pickled_layout
from evolve.engines.protocols import ConversionJob
from evolve.errors import ModelError
from tests.support import families


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("models")
    families.save(root / "single", dtype="bfloat16")
    families.save(root / "sharded", shard="20KB")
    families.save(root / "tied", tied=True, dtype="float16")
    return root


def converted(model: Path, output: Path) -> Path:
    output.mkdir()
    convert(ConversionJob(model, output), families.silent)
    return output


def refused(model: Path, output: Path) -> str:
    with pytest.raises(ModelError) as raised:
        converted(model, output)
    return str(raised.value)


@pytest.mark.parametrize("name", ["single", "sharded", "tied"])
def test_the_tensors_are_the_same(models, tmp_path, name):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = families.pickled(tmp_path / "model", models / name)
    (model / "generation_config.json").write_text('{"eos_token_id": 2, "temperature": 0.3}')
    assert is_pickled(model)
    out = converted(model, tmp_path / "out")
    before, after = families.weights(models / name), families.weights(out)
    assert before.keys() == after.keys()
    assert all(torch.equal(weight, after[key]) and weight.dtype == after[key].dtype for key, weight in before.items())
    assert differences(read_layout(models / name), read_layout(out)) is None
    assert read_layout(out).files.keys() == read_layout(models / name).files.keys()
    for file in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (out / file).read_bytes() == (model / file).read_bytes()
    assert not [path for path in out.iterdir() if "bin" in path.name]
    _, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    assert len(AutoTokenizer.from_pretrained(out)) == families.ROWS


def test_the_result_lists_its_files_and_is_deterministic(models, tmp_path):
    model = families.pickled(tmp_path / "model", models / "sharded")
    results = []
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        results.append(convert(ConversionJob(model, tmp_path / name), families.silent))
    files = {path.name: path.stat().st_size for path in (tmp_path / "1").iterdir()}
    assert {name: size for name, (size, _) in results[0].files.items()} == files
    assert results[0].bytes == sum(files.values())
    assert results[0].files == results[1].files


@pytest.mark.parametrize("tied", [None, False, True])
def test_one_tensor_with_two_names(models, tmp_path, tied):
    """Tied embeddings are kept once, others twice."""
    model = families.pickled(tmp_path / "model", models / "single")
    settings = json.loads((model / "config.json").read_text()) | {"tie_word_embeddings": tied}
    (model / "config.json").write_text(json.dumps(settings))
    weights = torch.load(model / "pytorch_model.bin", weights_only=True)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    torch.save(weights, model / "pytorch_model.bin")
    after = families.weights(converted(model, tmp_path / "out"))
    assert after.keys() == weights.keys() - ({"lm_head.weight"} if tied else set())
    assert all(torch.equal(weights[name], weight) for name, weight in after.items())


def test_views_of_shared_memory_in_the_old_file_format(models, tmp_path):
    model = families.pickled(tmp_path / "model", models / "single")
    whole = torch.arange(12.0).reshape(3, 4)
    views = {"a": whole[0], "b": whole[1:], "turned": whole.T, "number": torch.tensor(7), "none": torch.empty(0, 4)}
    views["trained"] = torch.nn.Parameter(torch.ones(2))
    torch.save(views, model / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(model / "pytorch_model.bin")
    after = families.weights(converted(model, tmp_path / "out"))
    assert after.keys() == views.keys()
    assert all(torch.equal(views[name], weight) for name, weight in after.items())


class _Harmful:
    """Pickled, it makes a file on the way back."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("form", ["torch", "old torch", "pickle"])
def test_code_is_never_run(models, tmp_path, form):
    model = families.pickled(tmp_path / "model", models / "single")
    content = {"a": torch.ones(2), "b": _Harmful(tmp_path / "harm")}
    if form == "pickle":
        (model / "pytorch_model.bin").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, model / "pytorch_model.bin", _use_new_zipfile_serialization=form == "torch")
    words = refused(model, tmp_path / "out")
    assert f"{model / 'pytorch_model.bin'} is damaged, or holds more than tensors and is not opened (" in words
    assert "download it again, or convert it yourself if you trust it" in words
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(2)], "holds no tensors by name"),
        ({}, "holds no tensors by name"),
        ({"epoch": 3}, "holds 'epoch', which is not a plain tensor"),
        ({"state_dict": {"a": torch.ones(2)}}, "holds 'state_dict', which is not a plain tensor"),
        ({"a": torch.ones(2).to_sparse()}, "holds 'a', which is not a plain tensor"),
        ({"a": torch.tensor([1.0, float("nan")])}, "holds numbers that are not finite, first in a: give another model"),
        ({"a": torch.tensor([float("-inf")])}, "holds numbers that are not finite, first in a: give another model"),
    ],
)
def test_other_contents_are_refused(models, tmp_path, content, words):
    model = families.pickled(tmp_path / "model", models / "single")
    torch.save(content, model / "pytorch_model.bin")
    assert words in refused(model, tmp_path / "out")


@pytest.mark.parametrize("keep", [0, 1, 7, 100, -1, -30])
def test_files_that_are_cut_off(models, tmp_path, keep):
    model = families.pickled(tmp_path / "model", models / "single")
    path = model / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"is cut off|is damaged"):
        converted(model, tmp_path / "out")
    if keep != 1:  # so little may be anything
        with pytest.raises(ModelError, match=r"pytorch_model.bin is cut off \(\d+ bytes\): download it again"):
            pickled_layout(model)


@pytest.mark.parametrize("old", [False, True])
def test_a_damaged_file_never_raises_other_errors(models, tmp_path, old):
    """Whatever torch raises for a damaged file becomes a ModelError."""
    model = families.pickled(tmp_path / "model", models / "single")
    torch.save({"a": torch.ones(3)}, model / "pytorch_model.bin", _use_new_zipfile_serialization=not old)
    whole = (model / "pytorch_model.bin").read_bytes()
    torch.manual_seed(0)
    for number in range(150):
        noisy = bytearray(whole)
        for place in torch.randint(len(whole), (3,)).tolist():
            noisy[place] ^= 1 + number % 255
        (model / "pytorch_model.bin").write_bytes(bytes(noisy))
        with contextlib.suppress(ModelError):
            converted(model, tmp_path / "out")
        shutil.rmtree(tmp_path / "out")


def test_shards(models, tmp_path):
    model = families.pickled(tmp_path / "model", models / "sharded")
    index = model / "pytorch_model.bin.index.json"
    whole = index.read_text()
    places = json.loads(whole)["weight_map"]
    name, shard = next(iter(places.items()))

    def refusal(content: object) -> str:
        index.write_text(json.dumps(content))
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        return refused(model, tmp_path / "out")

    assert "has no weight_map from tensors to files" in refusal({})
    assert "has no weight_map" in refusal({"weight_map": {}})
    assert "has no weight_map" in refusal({"weight_map": {name: 3}})
    assert "names the shard ../x.bin, which is not in the folder" in refusal({"weight_map": {name: "../x.bin"}})
    assert f"{shard} does not hold other.weight, which its index puts there" in refusal(
        {"weight_map": {"other.weight": shard}}
    )
    index.write_text(whole)
    (model / shard).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match=r"is a Git LFS pointer.*git lfs pull"):
        pickled_files(model)
    (model / shard).unlink()
    with pytest.raises(ModelError, match=f"names the shard {shard}, which is not in the folder"):
        pickled_files(model)


def test_the_layout_without_opening_the_weights(models, tmp_path):
    model = families.pickled(tmp_path / "model", models / "sharded")
    layout = pickled_layout(model)
    assert not layout.tensors
    assert layout.setting("num_hidden_layers") == 2
    shards = sorted(path.name for path in model.glob("*.bin"))
    assert len(shards) > 1
    assert list(layout.files) == [*shards, "pytorch_model.bin.index.json"]
    assert differences(layout, read_layout(models / "sharded")) is None
    assert "num_hidden_layers" in str(
        differences(layout, read_layout(families.save(tmp_path / "x", num_hidden_layers=1)))
    )
    stamps = fingerprint(model, weights=pickled_files(model))
    assert {*shards, "pytorch_model.bin.index.json", "config.json", "tokenizer.json"} <= stamps.keys()


def test_safetensors_take_precedence_over_pickled_weights(models, tmp_path):
    model = shutil.copytree(models / "single", tmp_path / "model")
    (model / "pytorch_model.bin").write_bytes(b"")
    assert not is_pickled(model)
    assert read_layout(model).tensors
    with pytest.raises(ModelError, match="has no pickled weights"):
        pickled_layout(model)


def test_jobs_and_function_can_be_sent_to_a_worker(tmp_path):
    job = ConversionJob(tmp_path, tmp_path)
    assert pickle.loads(pickle.dumps((convert, job))) == (convert, job)
