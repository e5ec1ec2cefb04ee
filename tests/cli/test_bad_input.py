"""A wrong configuration or recipe: one message with file, key, value and fix, and no new files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.usefixtures("no_work")

Change = Callable[[Path, dict[str, Any]], object]

# ------------------------------------------------------------------------------------------------- the configuration

TEXTS = {
    "not YAML": ("base_model: [base\nseed: 0\n", ("line 2", "not valid YAML", "fix the syntax")),
    "not a mapping": ("- base_model\n", ("holds a list", "base_model and foundation_models")),
    "an empty file": ("", ("holds nothing", "base_model and foundation_models")),
    "not UTF-8": (b"name: \xff\n", ("not UTF-8 text", "configuration file")),
    "a repeated key": ("seed: 0\nseed: 1\n", ("line 2", "'seed'", "also in line 1", "keep one")),
}


@pytest.mark.parametrize(("text", "words"), TEXTS.values(), ids=TEXTS)
def test_a_file_that_is_not_a_configuration(refused, tmp_path, text, words):
    config = tmp_path / "run.yaml"
    config.write_bytes(text if isinstance(text, bytes) else text.encode())

    refused("run", config, "--run-dir", tmp_path / "run", words=(f"{config}: ", *words))


def test_a_missing_file(refused, tmp_path):
    refused("run", tmp_path / "no.yaml", words=(f"{tmp_path}/no.yaml: ", "no such file", "give the path"))
    refused("check", tmp_path, words=(f"{tmp_path}: ", "is a folder", "configuration file"))


def _in(section: str, **values: Any) -> Change:
    return lambda folder, raw: raw.setdefault(section, {}).update(values)


def _named(name: str) -> Change:
    return lambda folder, raw: raw["foundation_models"].update({name: "./C"})


KEYS: dict[str, tuple[Change, tuple[str, ...]]] = {
    "an unknown key": (
        _in("strategy", topk=3),
        ("strategy.topk = 3", "unknown key", "did you mean top_k?"),
    ),
    "an unknown section": (
        lambda folder, raw: raw.update(strategies={}),
        ("strategies = {}", "unknown key", "did you mean strategy?"),
    ),
    "a wrong type": (
        _in("strategy", top_k="three"),
        ('strategy.top_k = "three"', "it must be a whole number from 2 to 1000"),
    ),
    "k below two": (_in("strategy", top_k=1), ("strategy.top_k = 1", "from 2 to 1000")),
    "an unknown metric": (_in("strategy", metric="cosine"), ('strategy.metric = "cosine"', "cs (cosine")),
    "an unknown device": (lambda folder, raw: raw.update(device="gpu"), ('device = "gpu"', "cuda")),
    "only one foundation": (
        lambda folder, raw: raw.update(foundation_models={"A": "./A"}),
        ("foundation_models = ", "/A", "at least two"),
    ),
    "no foundation": (lambda folder, raw: raw.pop("foundation_models"), ("foundation_models: is missing", "two")),
    "no base": (lambda folder, raw: raw.pop("base_model"), ("base_model: is missing", "a folder or a Hub id")),
    "a name of a run with a slash": (lambda folder, raw: raw.update(name="a/b"), ('name = "a/b"', "rename it")),
    "a task listed twice": (
        _in("evaluation", tasks=[{"task": "alpha"}, {"task": "alpha"}]),
        ("evaluation.tasks = ", "alpha is listed twice", "once"),
    ),
    "a metric without its filter": (
        _in("evaluation", tasks=[{"task": "alpha", "metric": "acc"}]),
        ('evaluation.tasks.0.metric = "acc"', "'acc,none'"),
    ),
    "data of a task that is not listed": (
        _in("evaluation", datasets={"gamma": "./data"}),
        ("evaluation.datasets.gamma = ", "/data", "not among the tasks (alpha, beta)", "list it there or remove it"),
    ),
    "a missing folder of data": (
        _in("evaluation", datasets={"alpha": "./data"}),
        ("evaluation.datasets.alpha = ", "/family/data", "no such folder", "<split>.jsonl"),
    ),
    "a missing folder of tasks": (
        _in("evaluation", task_dirs=["./tasks"]),
        ("evaluation.task_dirs.0 = ", "/family/tasks", "no such folder"),
    ),
    "an argument of the model class that evolve sets": (
        _in("evaluation", model_args={"device": "cuda"}),
        ('evaluation.model_args.device = "cuda"', "give the top-level key device"),
    ),
    **{
        f"a name like {name}": (_named(name), ("foundation_models." + name, "a name has letters", "rename it"))
        for name in ("a+b", "a@b", "a/b", "a b", "a..b", "../a", "..", ".a")
    },
    "a name like that of a child": (
        _named("model-1-2"),
        ("foundation_models.model-1-2", "reserved for children", "rename it"),
    ),
    "the same model twice, by path": (
        lambda folder, raw: raw["foundation_models"].update(D="A/../A/"),
        ("foundation_models.D = ", "/family/A", "foundation_models.A is the same model", "list it once"),
    ),
    "the same model twice, through a link": (
        lambda folder, raw: (folder / "D").symlink_to("A") or raw["foundation_models"].update(D="D"),
        ("foundation_models.D = ", "/family/A", "foundation_models.A is the same model", "list it once"),
    ),
    "the same model twice, by content": (
        lambda folder, raw: shutil.copytree(folder / "A", folder / "D") and raw["foundation_models"].update(D="D"),
        ("foundation_models.D", "/family/D", "the same files as A", "list a model once"),
    ),
    "the base among the foundations": (
        lambda folder, raw: raw["foundation_models"].update(D="./base"),
        ("foundation_models.D = ", "/family/base", "it is the base model", "leave it out"),
    ),
    "the base among the foundations, by content": (
        lambda folder, raw: shutil.copytree(folder / "base", folder / "D") and raw["foundation_models"].update(D="D"),
        ("foundation_models.D", "/family/D", "the same files as base_model", "only as base_model"),
    ),
}


def changed(config: Path, change: Change) -> Path:
    raw = yaml.safe_load(config.read_text())
    change(config.parent, raw)
    config.write_text(yaml.safe_dump(raw, sort_keys=False))
    return config


@pytest.mark.parametrize(("change", "words"), KEYS.values(), ids=KEYS)
def test_a_wrong_key(refused, fake_family, tmp_path, change, words):
    config = changed(fake_family, change)

    refused("run", config, "--run-dir", tmp_path / "run", words=(f"{config}: ", *words))


def test_check_gives_the_same_message(refused, fake_family):
    config = changed(fake_family, _in("strategy", topk=3))
    refused("check", config, words=(f"{config}: strategy.topk = 3: unknown key; did you mean top_k?",))

    changed(config, lambda folder, raw: raw["strategy"].pop("topk"))
    shutil.rmtree(fake_family.parent / "B")
    refused("check", config, words=(f"{config}: foundation_models.B = ", "no such folder"))


def test_each_error_has_its_own_line(refused, fake_family, tmp_path):
    config = changed(
        fake_family, lambda folder, raw: raw.update(seed="x", device="gpu", strategy={"top_k": 1, "metrc": "cs"})
    )

    message = refused("run", config, "--run-dir", tmp_path / "run", words=(), lines=4)

    assert all(line.startswith(f"{config}: ") for line in message.split("\n"))


@pytest.mark.parametrize("override", ["top_k", "=3", "strategy..top_k=3", "strategy.top_k=[", "name.x=1"])
def test_a_wrong_override(refused, fake_family, override):
    refused("run", fake_family, "--set", override, words=(f"--set {override}: ",))


def test_an_override_with_a_wrong_value(refused, fake_family):
    refused("run", fake_family, "--set", "strategy.top_k=1", words=("strategy.top_k = 1", "from 2 to 1000"))


def test_an_override_without_a_value(command, fake_family):
    answer = command("run", fake_family, "--set")
    assert answer.code == 2
    assert "--set" in answer.err


@pytest.mark.parametrize("model", ["no such/model@main", "a b", "../a/b/c/d"])
def test_a_model_that_is_neither_folder_nor_hub_id(refused, fake_family, tmp_path, model, monkeypatch):
    config = changed(fake_family, lambda folder, raw: raw["foundation_models"].update(B=model))

    refused("run", config, "--run-dir", tmp_path / "run", words=(f"{config}: foundation_models.B = ", "folder"))


# -------------------------------------------------------------------------------------------------------- the recipe

COMPLETE = """merge_method: slerp
base_model: {{ parent_1 }}
models: [{model: {{ parent_1 }}}, {model: {{ parent_2 }}}]
dtype: {{ dtype }}
parameters: {t: 0.5}
"""
RECIPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "no second parent": (COMPLETE.replace("parent_2", "parent_1"), ("{{ parent_2 }}", "would not be a merge of both")),
    "an unknown placeholder": (
        COMPLETE.replace("{{ dtype }}", "{{ dtyp }}"),
        ("unknown placeholder 'dtyp'", "did you mean dtype?"),
    ),
    "a syntax error": (COMPLETE.replace("{{ dtype }}", "{{ dtype }"), ("line 4",)),
    "a parent in quotes": (
        COMPLETE.replace("{{ parent_2 }}", "'{{ parent_2 }}'"),
        ("{{ parent_2 }}", "write it unquoted"),
    ),
    "not YAML when filled in": (COMPLETE + "parameters: [\n", ("once filled in", "line 7: not valid YAML")),
    "a list": ("- {{ parent_1 }}\n- {{ parent_2 }}\n", ("is not a YAML mapping",)),
    "a division by zero": (COMPLETE.replace("0.5", "{{ 1 / 0 }}"), ("cannot be filled in",)),
}


@pytest.mark.parametrize(("text", "words"), RECIPES.values(), ids=RECIPES)
def test_a_wrong_recipe(refused, fake_family, tmp_path, text, words):
    recipe = fake_family.parent / "mine.yaml"
    recipe.write_text(text)
    config = changed(fake_family, lambda folder, raw: raw["merge"].update(recipe="./mine.yaml"))

    refused(
        *("run", config, "--run-dir", tmp_path / "run"),
        words=(f"{config}: merge.recipe = {recipe}: ", *words),
    )


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("slerp-gradiant", ("merge.recipe = slerp-gradiant", "no recipe", "slerp-gradient", "or the path of a file")),
        ("./no.yaml", ("merge.recipe = ", "/family/no.yaml", "no recipe file")),
        (["slerp", "slerp"], ('merge.recipe = ["slerp", "slerp"]', "twice", "list each once")),
        ([], ("merge.recipe = []", "name at least one template")),
    ],
)
def test_a_missing_recipe(refused, fake_family, tmp_path, recipe, words):
    config = changed(fake_family, lambda folder, raw: raw["merge"].update(recipe=recipe))

    refused("run", config, "--run-dir", tmp_path / "run", words=(f"{config}: ", *words))
