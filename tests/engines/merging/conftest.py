"""Families of tiny models, written once a session."""

from __future__ import annotations

import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from evolve.engines.merging import load_template, merge, render, resolve_tokenizer
from evolve.engines.protocols import MergeJob
from tests.engines.merging import _models as tiny

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@dataclass(frozen=True)
class Family:
    base: Path
    a: Path
    b: Path
    c: Path


@pytest.fixture(scope="session", autouse=True)
def heavy_imports():
    """Import mergekit, which uses a deprecated name of numpy, and keep torch to one thread."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "numpy.core is deprecated", DeprecationWarning)
        import mergekit.io  # noqa: F401
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def family(tmp_path_factory) -> Family:
    """Write models with one vocabulary and four layers."""
    root = tmp_path_factory.mktemp("family")
    base = tiny.save(root / "base", layers=4)
    a, b, c = (tiny.save(root / name, near=base, seed=seed, layers=4) for seed, name in enumerate("abc", start=1))
    return Family(base, a, b, c)


@pytest.fixture(scope="session")
def mixed(tmp_path_factory) -> Family:
    """Write models with 61, 60 and 62 rows; MetaMath, Mistral-Instruct and OpenChat have 32001, 32000 and 32002."""
    root = tmp_path_factory.mktemp("mixed")
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
def child(tmp_path):
    """Return a function that merges two models by one of evolve's recipes and returns the child's folder."""

    def make(parents, base, *, recipe="slerp-gradient", dtype="float32", tokenizer="auto", name="child"):
        template = load_template(recipe)
        source = resolve_tokenizer(tokenizer, [*parents, base] if template.uses_base else parents)
        text = render(template, parents=parents, base=base, num_layers=None, dtype=dtype, tokenizer=source)
        output = tmp_path / name
        output.mkdir()
        merge(MergeJob(text, tuple(parents), output), tiny.silent, "cpu")
        return output

    return make


@pytest.fixture(scope="session")
def render_recipe(family):
    """Return a function that renders one of evolve's recipes; by default for two models of the family."""

    def make(recipe="slerp-gradient", *, parents=None, base=None, dtype="float32"):
        template = load_template(recipe)
        parents, base = parents or (family.a, family.b), base or family.base
        return render(template, parents=parents, base=base, num_layers=None, dtype=dtype, tokenizer=None)

    return make


@pytest.fixture
def job(family, render_recipe, tmp_path):
    """Return a function that writes a merge job; by default two models of the family are merged."""

    def make(
        recipe="slerp-gradient", *, name="out", parents=None, base=None, dtype="float32", change=lambda text: text
    ):
        text = render_recipe(recipe, parents=parents, base=base, dtype=dtype)
        output = tmp_path / name
        output.mkdir()
        return MergeJob(change(text), parents or (family.a, family.b), output)

    return make


@pytest.fixture
def broken(family, tmp_path):
    """Return a function that copies a model and puts a number into one of its tensors."""
    from safetensors.torch import load_file, save_file

    def make(name, value, source=family.b, folder="broken"):
        copy = shutil.copytree(source, tmp_path / folder)
        tensors = load_file(copy / "model.safetensors")
        tensors[name].view(-1)[1] = value
        save_file(tensors, copy / "model.safetensors", {"format": "pt"})
        return copy

    return make
