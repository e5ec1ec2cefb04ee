"""A wrong model folder: one message with file, key, folder and fix, and no new files."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import SIZE, write_model

from evolve.cli import driving
from evolve.engines.checkpoints import Layout
from evolve.engines.protocols import ModelFacts

from .conftest import CHECKS_ONLY

pytestmark = pytest.mark.usefixtures("no_work")


def _weights(model: Path) -> Path:
    return model / "model.safetensors"


def _cut(model: Path) -> None:
    os.truncate(_weights(model), _weights(model).stat().st_size - 5)


def _pickled(model: Path) -> None:
    _weights(model).rename(model / "pytorch_model.bin")


def _configured(**values: Any) -> Callable[[Path], object]:
    def change(model: Path) -> None:
        path = model / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def _indexed(weight_map: object) -> Callable[[Path], object]:
    def shard(model: Path) -> None:
        _weights(model).rename(model / "model-00001-of-00002.safetensors")
        (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return shard


def _reshaped(model: Path) -> None:
    from safetensors.numpy import save_file

    values = write_model(model, 7)
    save_file({"model.layers.0.mlp.weight": values.reshape(SIZE // 4, 4)}, _weights(model))


TENSOR = "model.layers.0.mlp.weight"
MODELS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "missing": (shutil.rmtree, (" = {model}: ", "no such folder", "give the folder of a model, or a Hub id")),
    "a file": (
        lambda model: (shutil.rmtree(model), model.touch()),
        (" = {model}: ", "no such folder", "give the folder"),
    ),
    "empty": (lambda model: (shutil.rmtree(model), model.mkdir()), ("{model} is empty", "download")),
    "no config.json": (
        lambda model: (model / "config.json").unlink(),
        ("{model} has no config.json", "give the folder"),
    ),
    "an adapter": (
        lambda model: (model / "config.json").rename(model / "adapter_config.json"),
        ("{model} is an adapter", "merge it"),
    ),
    "a truncated config.json": (
        lambda model: (model / "config.json").write_text('{"model_type": '),
        ("{model}/config.json is not valid JSON", "download"),
    ),
    "a list in config.json": (
        lambda model: (model / "config.json").write_text("[]"),
        ("{model}/config.json does not hold a JSON object", "download"),
    ),
    "no weights": (lambda model: _weights(model).unlink(), ("{model} has no weights", "model.safetensors", "download")),
    "pickled weights": (
        _pickled,
        (
            "{model} holds pickled weights (pytorch_model.bin)",
            "refused: set allow_pickled_weights: true to have a run convert them, or convert them with",
        ),
    ),
    "truncated weights": (_cut, ("{model}/model.safetensors is cut off", "download it again")),
    "an empty file of weights": (
        lambda model: os.truncate(_weights(model), 0),
        ("model.safetensors is cut off", "download"),
    ),
    "random bytes as weights": (
        lambda model: _weights(model).write_bytes(b"\x10" + b"\0" * 7 + b"x" * 40),
        ("{model}/model.safetensors has a damaged safetensors header", "download"),
    ),
    "a pointer of Git LFS": (
        lambda model: _weights(model).write_text("version https://git-lfs.github.com/spec/v1\n"),
        ("{model}/model.safetensors is a Git LFS pointer", "git lfs pull"),
    ),
    "an index with a missing shard": (
        _indexed({TENSOR: "model-00002-of-00002.safetensors"}),
        ("{model}/model.safetensors.index.json names the shard model-00002-of-00002", "not in the folder", "download"),
    ),
    "an index with a missing tensor": (
        _indexed({"other.weight": "model-00001-of-00002.safetensors"}),
        ("{model}/model.safetensors.index.json puts other.weight into", "does not hold it", "download"),
    ),
    "an empty index": (_indexed(None), ("{model}/model.safetensors.index.json has no weight_map", "download")),
    "another architecture": (
        _configured(model_type="llama"),
        ("{base} and {model} differ in model_type: mistral and llama", "give a model that was tuned from the base"),
    ),
    "another class": (
        _configured(architectures=["MistralModel"]),
        ("differ in architectures: ['MistralForCausalLM'] and ['MistralModel']", "give a model"),
    ),
    "another number of layers": (
        _configured(num_hidden_layers=2),
        ("{base} and {model} differ in num_hidden_layers: 1 and 2", "give a model"),
    ),
    "another hidden size": (
        _configured(hidden_size=8),
        ("{base} and {model} differ in hidden_size: 4 and 8", "give a model"),
    ),
    "another shape": (_reshaped, (f"differ in the shape of {TENSOR}: [4, 6] and [6, 4]", "give a model")),
}


@pytest.mark.parametrize(("damage", "words"), MODELS.values(), ids=MODELS)
def test_a_wrong_foundation(refused, fake_family, tmp_path, damage, words):
    model, base = fake_family.parent / "B", fake_family.parent / "base"
    damage(model)

    refused(
        *("run", fake_family, "--run-dir", tmp_path / "run"),
        words=(f"{fake_family}: foundation_models.B", *(word.format(model=model, base=base) for word in words)),
    )


@pytest.mark.parametrize("case", ["missing", "empty", "pickled weights", "truncated weights"])
def test_a_wrong_base(refused, fake_family, tmp_path, case):
    damage, words = MODELS[case]
    base = fake_family.parent / "base"
    damage(base)

    refused(
        *("run", fake_family, "--run-dir", tmp_path / "run"),
        words=(f"{fake_family}: base_model", *(word.format(model=base) for word in words)),
    )


def test_a_recipe_that_needs_an_unknown_number_of_layers(refused, fake_family, monkeypatch):
    unknown = replace(
        CHECKS_ONLY, inspect_models=lambda job, report: dict.fromkeys(job.models, ModelFacts(layers=None))
    )
    monkeypatch.setattr(driving, "REAL", unknown)
    recipe = fake_family.parent / "mine.yaml"
    recipe.write_text(
        "merge_method: slerp\nbase_model: {{ parent_1 }}\ndtype: {{ dtype }}\nslices:\n  - sources:\n"
        "      - {model: {{ parent_1 }}, layer_range: [0, {{ num_layers }}]}\n"
        "      - {model: {{ parent_2 }}, layer_range: [0, {{ num_layers }}]}\n"
    )

    refused(
        *("run", fake_family, "--set", f"merge.recipe={recipe}"),
        words=(f"{fake_family}: merge.recipe = {recipe}: ", "number of layers"),
    )


def test_an_unreadable_model(refused, fake_family, monkeypatch):
    weights = fake_family.parent / "B" / "model.safetensors"
    check = importlib.import_module("evolve.run.inputs.check")
    read = check.read_layout

    def read_layout(folder: Path) -> Layout:
        if folder == weights.parent:
            raise PermissionError(13, "Permission denied", str(weights))
        return read(folder)

    monkeypatch.setattr(check, "read_layout", read_layout)
    refused("run", fake_family, words=(f"{fake_family}: foundation_models.B: {weights} cannot be read", "readable"))


PICKLED: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "empty": (lambda model: os.truncate(model / "pytorch_model.bin", 0), ("pytorch_model.bin is cut off", "download")),
    "a pointer of Git LFS": (
        lambda model: (model / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\n"),
        ("{model}/pytorch_model.bin is a Git LFS pointer", "git lfs pull"),
    ),
    "missing shards": (
        lambda model: (
            (model / "pytorch_model.bin")
            .rename(model / "pytorch_model.bin.index.json")
            .write_text(json.dumps({"weight_map": {TENSOR: "pytorch_model-00001-of-00002.bin"}}))
        ),
        ("pytorch_model.bin.index.json names the shard pytorch_model-00001-of-00002.bin", "not in the folder"),
    ),
    "another number of layers": (
        _configured(num_hidden_layers=2),
        ("{base} and {model} differ in num_hidden_layers: 1 and 2", "give a model"),
    ),
    "no config.json": (lambda model: (model / "config.json").unlink(), ("{model} has no config.json",)),
}


@pytest.mark.parametrize("verb", ["check", "run"])
@pytest.mark.parametrize(("damage", "words"), PICKLED.values(), ids=PICKLED)
def test_wrong_pickled_weights(refused, fake_family, damage, words, verb):
    model, base = fake_family.parent / "B", fake_family.parent / "base"
    _pickled(model)
    damage(model)

    refused(
        *(verb, fake_family, "--set", "allow_pickled_weights=true"),
        words=(f"{fake_family}: foundation_models.B: ", *(word.format(model=model, base=base) for word in words)),
    )


def test_pickled_weights_with_an_adapter(refused, fake_family, tmp_path):
    model, adapter = fake_family.parent / "B", tmp_path / "adapter"
    adapter.mkdir()
    _pickled(model)

    refused(
        *("run", fake_family, "--set", "allow_pickled_weights=true"),
        *("--set", f"foundation_models.B={{model: {model}, adapter: {adapter}}}"),
        words=(f"foundation_models.B = {model}: holds pickled weights, which are not converted for a model with an",),
    )
