"""Families of tiny models, written once a session."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _load(name: str) -> ModuleType:
    """A helper beside this file; tests are no packages, so it cannot simply be imported."""
    spec = importlib.util.spec_from_file_location(f"merging_tests{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Family:
    base: Path
    a: Path
    b: Path
    c: Path


@pytest.fixture(scope="session", autouse=True)
def heavy_imports():
    """Imports mergekit, which touches a deprecated name of numpy, and keeps torch to one thread."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "numpy.core is deprecated", DeprecationWarning)
        import mergekit.io  # noqa: F401
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The builders of `_models.py`."""
    return _load("_models")


@pytest.fixture(scope="session")
def family(tiny, tmp_path_factory) -> Family:
    """Models of one vocabulary, four layers."""
    root = tmp_path_factory.mktemp("family")
    base = tiny.save(root / "base", layers=4)
    a, b, c = (tiny.save(root / name, near=base, seed=seed, layers=4) for seed, name in enumerate("abc", start=1))
    return Family(base, a, b, c)


@pytest.fixture(scope="session")
def strangers(tiny, tmp_path_factory) -> Family:
    """Models with 61, 60 and 62 rows; MetaMath, Mistral-Instruct and OpenChat have 32001, 32000 and 32002."""
    root = tmp_path_factory.mktemp("strangers")
    base = tiny.save(root / "base")
    return Family(
        base=base,
        a=tiny.save(root / "math", near=base, seed=1, extra=["[PAD]"], pad="[PAD]"),
        b=tiny.save(root / "instruct", near=base, seed=2, chat_template="[INST] {{ messages[0].content }} [/INST]"),
        c=tiny.save(
            root / "chat",
            near=base,
            seed=3,
            extra=["<|end_of_turn|>", "<|pad_0|>"],
            eos="<|end_of_turn|>",
            chat_template="{{ messages[0].content }}<|end_of_turn|>",
        ),
    )


@pytest.fixture
def child(tmp_path, tiny):
    """Merges two models with a recipe of evolve's and returns the folder of the child."""
    from evolve.engines.merging import load_template, merge, render, resolve_tokenizer
    from evolve.engines.protocols import MergeJob

    def make(parents, base, *, recipe="slerp-gradient", dtype="float32", tokenizer="auto", name="child", layers=2):
        template = load_template(recipe)
        source = resolve_tokenizer(tokenizer, [*parents, base] if template.uses_base else parents)
        text = render(template, parents=parents, base=base, num_layers=layers, dtype=dtype, tokenizer=source)
        output = tmp_path / name
        output.mkdir()
        merge(MergeJob(text, tuple(parents), output, "cpu"), tiny.silent)
        return output

    return make


@pytest.fixture
def job(family, tmp_path):
    """A job that merges models of the family, with changes to what `render` is given."""
    from evolve.engines.merging import load_template, render
    from evolve.engines.protocols import MergeJob

    def make(
        recipe="slerp-gradient", *, name="out", parents=None, base=None, dtype="float32", change=lambda text: text
    ):
        parents = parents or (family.a, family.b)
        text = render(
            load_template(recipe), parents=parents, base=base or family.base, num_layers=4, dtype=dtype, tokenizer=None
        )
        output = tmp_path / name
        output.mkdir()
        return MergeJob(change(text), parents, output, "cpu")

    return make


@pytest.fixture
def broken(family, tmp_path):
    """A copy of a model with one bad number in one tensor."""
    from safetensors.torch import load_file, save_file

    def make(name, value, source=family.b, folder="broken"):
        copy = shutil.copytree(source, tmp_path / folder)
        tensors = load_file(copy / "model.safetensors")
        tensors[name].view(-1)[1] = value
        save_file(tensors, copy / "model.safetensors", {"format": "pt"})
        return copy

    return make
