"""Merges of tiny real models, compared with mergekit's own command."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import shutil
import subprocess
import sys

import pytest

from evolve.engines.merging import merge, template_names
from evolve.engines.merging.merger import seed_of
from evolve.errors import MergeError
from tests.engines.merging import _models as tiny


@pytest.mark.parametrize("recipe", template_names())
def test_every_recipe_makes_a_working_model(family, job, recipe):
    import torch

    task = job(recipe, dtype="bfloat16")
    merge(task, tiny.silent, "cpu")
    merged, first, second = tiny.weights(task.output), tiny.weights(family.a), tiny.weights(family.b)
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
    assert merged.keys() == first.keys()
    weight = "model.layers.1.self_attn.q_proj.weight"
    assert not torch.equal(merged[weight].float(), first[weight])
    assert not torch.equal(merged[weight].float(), second[weight])
    tiny.generate(task.output)


# `mergekit-yaml` once per list of arguments, each in a process of its own, forked after the imports to save time.
COMMANDS = """
import json, os, sys
from mergekit.scripts.run_yaml import main
for arguments in json.loads(sys.argv[1]):
    if (child := os.fork()) == 0:
        main(arguments)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0, arguments
"""


@pytest.fixture(scope="module")
def by_the_command(render_recipe, tmp_path_factory):
    """Return the checkpoints that the command makes of two recipes, by the recipe's text."""
    folder, commands, outputs = tmp_path_factory.mktemp("command"), [], {}
    for name in ("slerp-gradient", "dare-ties"):
        text = render_recipe(name, dtype="bfloat16")
        path, outputs[text] = folder / f"{name}.yaml", folder / name
        path.write_text(text, encoding="utf-8")
        seed = ["--random-seed", str(seed_of(text))] if name == "dare-ties" else []
        commands.append([str(path), str(outputs[text]), "--no-write-model-card", "--quiet", *seed])
    settings = os.environ | {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    subprocess.run(command, check=True, env=settings, timeout=240, capture_output=True)
    return outputs


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("recipe", ["slerp-gradient", "dare-ties"])
def test_tensors_are_those_of_the_command_byte_for_byte(job, by_the_command, monkeypatch, recipe, shards):
    import torch

    if shards > 1:
        monkeypatch.setattr("evolve.engines.merging._mergekit._SHARD_BYTES", 20_000)
    task = job(recipe, dtype="bfloat16")
    merge(task, tiny.silent, "cpu")
    files = sorted(path.name for path in task.output.glob("*.safetensors"))
    assert files == (
        ["model.safetensors"] if shards == 1 else [f"model-0000{i}-of-00004.safetensors" for i in (1, 2, 3, 4)]
    )
    output = by_the_command[task.recipe]
    ours, theirs = tiny.weights(task.output), tiny.weights(output)
    assert {name: tensor.dtype for name, tensor in ours.items()} == {name: t.dtype for name, t in theirs.items()}
    assert all(
        bytes(ours[name].view(torch.uint8).numpy()) == bytes(theirs[name].view(torch.uint8).numpy()) for name in ours
    )
    if shards == 1:
        assert (task.output / "model.safetensors").read_bytes() == (output / "model.safetensors").read_bytes()


PAPER = """\
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
"""


@pytest.mark.parametrize("name", ["mistral", "llama", "qwen2", "qwen3", "gemma2", "phi3"])
def test_the_default_recipe_equals_the_filters_of_the_paper(job, tmp_path, name):
    def as_in_the_paper(text):
        start, end = text.index("  t:\n"), text.index("dtype:")
        return text[:start] + PAPER + text[end:]

    one = tiny.save(tmp_path / "one", name, layers=3, seed=1)
    parents = (one, tiny.save(tmp_path / "two", name, layers=3, seed=2, near=one))
    default, paper = job(parents=parents, name="default"), job(parents=parents, name="paper", change=as_in_the_paper)
    assert default.recipe != paper.recipe
    ours, theirs = (merge(each, tiny.silent, "cpu").files for each in (default, paper))
    assert ours["model.safetensors"] == theirs["model.safetensors"]


@pytest.mark.parametrize("recipe", ["slerp-gradient", "dare-ties"])
def test_a_merge_can_be_repeated(job, recipe):
    one, two = (merge(job(recipe, name=name), tiny.silent, "cpu") for name in ("one", "two"))
    assert one.files == two.files


def test_the_result_lists_all_files(job):
    task = job()
    result = merge(task, tiny.silent, "cpu")
    found = {path.name: path.read_bytes() for path in task.output.iterdir()}
    assert result.files == {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in found.items()}
    assert result.bytes == sum(map(len, found.values()))
    assert result.seconds > 0
    assert set(found) == {
        *("README.md", "mergekit_config.yml", "config.json", "generation_config.json"),
        *("model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    }


def test_the_recipe_and_a_model_card_are_written(job):
    task = job("dare-ties")
    merge(task, tiny.silent, "cpu")
    card = (task.output / "README.md").read_text()
    assert (task.output / "mergekit_config.yml").read_text() == task.recipe
    assert task.recipe.rstrip() in card
    for words in ("`a` and `b`", "arXiv 2410.12613", f"--random-seed {seed_of(task.recipe)}"):
        assert words in card


def test_progress_is_reported(job):
    seen = []
    merge(job(), lambda *news: seen.append(news), "cpu")
    by_words = {}
    for words, done, total in seen:
        by_words.setdefault(words, []).append(done)
        assert done <= total
    assert next(iter(by_words)) == "merging"
    assert by_words["merging"] == list(range(1, len(by_words["merging"]) + 1))
    assert all(steps == sorted(steps) for steps in by_words.values())
    assert len(by_words) > 1  # the child is verified


def test_the_engine_can_be_pickled():
    assert pickle.loads(pickle.dumps(merge)) is merge


@pytest.mark.parametrize("recipe", ["slerp", "dare-ties"])
def test_global_generators_keep_their_state(job, recipe):
    import numpy as np
    import torch

    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    def seed():
        random.seed(3)
        np.random.seed(3)
        torch.manual_seed(3)

    seed()
    wanted = draw()
    seed()
    merge(job(recipe), tiny.silent, "cpu")
    assert draw() == wanted


def test_the_seed_depends_on_the_recipe_and_not_on_the_folders(job):
    one, two = job("dare-ties", name="one").recipe, job("ties", name="two").recipe
    assert seed_of(one) == seed_of(one.replace("/a", "/elsewhere").replace("# DARE", "# dare"))
    assert seed_of(one) != seed_of(one.replace("0.5", "0.6"))
    assert seed_of(one) != seed_of(two)


def test_mergekits_caches_are_emptied(family, job, tmp_path):
    """With its cache, a model rewritten at the same path would be merged with its old weights."""
    import torch
    from mergekit.io.tasks import LoaderCache

    model = shutil.copytree(family.b, tmp_path / "model")
    merge(job(parents=(family.a, model), name="one"), tiny.silent, "cpu")
    assert LoaderCache().loaders == {}
    shutil.rmtree(model)
    shutil.copytree(family.c, model)
    later, fresh = (job(parents=(family.a, path), name=f"with-{path.name}") for path in (model, family.c))
    for task in (later, fresh):
        merge(task, tiny.silent, "cpu")
    name = "lm_head.weight"
    assert torch.equal(tiny.weights(later.output)[name], tiny.weights(fresh.output)[name])


def test_mergekit_is_restored_afterwards(job):
    import mergekit.merge
    import mergekit.tokenizer.build
    import transformers

    def state():
        logging = transformers.utils.logging
        return (
            *(mergekit.merge.Executor, mergekit.tokenizer.build.tqdm),
            *(logging.get_verbosity(), logging.is_progress_bar_enabled()),
        )

    before = state()
    with pytest.raises(MergeError):
        merge(job(change=lambda text: text.replace("    - value: 0.5\n", "")), tiny.silent, "cpu")
    assert state() == before


def test_it_prints_nothing(mixed, child, capfd):
    child((mixed.a, mixed.c), mixed.base, dtype="bfloat16")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["with space", "a+b", "a@b", "é'\"#{}: -"])
def test_odd_paths(family, job, tmp_path, name):
    odd = shutil.copytree(family.b, tmp_path / name)
    task = job(parents=(family.a, odd))
    merge(task, tiny.silent, "cpu")
    assert set(tiny.weights(task.output)) == set(tiny.weights(family.a))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_parents_of_different_types(family, job, tmp_path, dtype):
    import torch

    parents = tuple(
        tiny.save(tmp_path / kind, near=family.base, seed=seed, layers=4, dtype=kind)
        for seed, kind in enumerate(("bfloat16", "float16"))
    )
    task = job(parents=parents, dtype=dtype)
    merge(task, tiny.silent, "cpu")
    assert {tensor.dtype for tensor in tiny.weights(task.output).values()} == {getattr(torch, dtype)}
    assert json.loads((task.output / "config.json").read_text())["dtype"] == dtype


def test_sharded_parents(family, job, tmp_path):
    import torch

    sharded = tiny.save(tmp_path / "b", near=family.base, seed=2, layers=4, shard="30KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    task, whole = job(parents=(family.a, sharded), name="sharded"), job(name="whole")
    for each in (task, whole):
        merge(each, tiny.silent, "cpu")
    wanted = tiny.weights(whole.output)
    for name, tensor in tiny.weights(task.output).items():
        assert torch.equal(tensor, wanted[name])


def test_tied_embeddings(job, tmp_path):
    base = tiny.save(tmp_path / "base", "llama", tied=True)
    parents = tuple(tiny.save(tmp_path / f"p{n}", "llama", near=base, seed=n, tied=True) for n in (1, 2))
    task = job(parents=parents, base=base)
    merge(task, tiny.silent, "cpu")
    assert "lm_head.weight" not in tiny.weights(task.output)
    tiny.generate(task.output)


def test_models_keep_the_order_of_the_recipe(job):
    """In mergekit's own order, that of a set, a union of three tokenizers would depend on PYTHONHASHSEED."""
    from evolve.engines.merging._mergekit import parse

    letters = "fjbqmzkxa"
    models = "".join(f"  - model: {{model: {{path: /{letter}}}}}\n" for letter in letters)
    text = f"merge_method: model_stock\nbase_model: /base\nmodels:\n{models}dtype: float32\n"
    assert [folder.name for folder in parse(text).folders] == ["base", *letters]
