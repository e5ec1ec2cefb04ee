"""The ready runs in configs/: each loads, and `evolve check` accepts each with the hub switched off."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import evolve as package
from evolve.cli.driving import check_config
from evolve.config import load_config
from evolve.engines.merging import load_template
from evolve.errors import EvolveError, ModelError, RecipeError, TaskError
from evolve.nursery import Family
from tests.conftest import Evolve
from tests.support import families
from tests.support.executors import InlineExecutor

CONFIGS = Path(package.__file__).parents[1] / "configs"
FILES = sorted(CONFIGS.glob("*.yaml"))
HUB = ["mistral-7b-greedy", "mistral-7b-kinship", "qwen2.5-1.5b"]
ADAPTERS = ("Math-LoRA", "Stories-LoRA")

Checked = Callable[..., str]


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Checked:
    """Calls `evolve check` in this process, with the hub switched off and its cache empty."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("evolve.run.session.LocalExecutor", InlineExecutor)

    def call(name: str, *settings: str) -> str:
        check_config(CONFIGS / f"{name}.yaml", list(settings))
        return capsys.readouterr().out

    return call


@pytest.fixture
def adapters(tmp_path: Path, family: Family) -> list[str]:
    """Settings that give the ready run with adapters two that are there."""
    made = {name: families.adapt(tmp_path / name, family.base, seed=len(name)) for name in ADAPTERS}
    return [f"foundation_models.{name}.adapter={folder}" for name, folder in made.items()]


def at_hand(family: Family, *keys: str) -> list[str]:
    """Settings that point a ready run at models and data that are there."""
    models = dict(zip(keys, family.specialists.values(), strict=False))
    settings = [f"foundation_models.{key}={folder}" for key, folder in models.items()]
    data = [f"evaluation.datasets.{task}={folder}" for task, folder in family.datasets.items()]
    return [f"base_model={family.base}", *settings, *data]


def not_checked(output: str) -> list[str]:
    return [line.removeprefix("not checked: ") for line in output.splitlines() if line.startswith("not checked: ")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_ready_run_is_valid_and_its_recipes_are_there(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem  # so that it lands in runs/ under the name of its file
    assert all(load_template(recipe).text for recipe in config.merge.recipes)


def test_all_ready_runs_are_checked_below() -> None:
    assert sorted([*HUB, "adapters", "demo", "offline"]) == [path.stem for path in FILES]


@pytest.mark.parametrize("name", HUB)
def test_what_comes_from_the_hub_is_named_as_not_checked(name: str, checked: Checked) -> None:
    config = load_config(CONFIGS / f"{name}.yaml")
    output = checked(name)
    *found, one, two, three = not_checked(output)
    sources = {"base_model": config.base_model}
    sources |= {f"foundation_models.{key}": str(source) for key, source in config.foundation_models.items()}
    assert found == [
        f"{key} = {source}: is not in the local hub cache, and the hub is switched off (HF_HUB_OFFLINE); download it "
        "first, or give a folder"
        for key, source in sources.items()
    ]
    tasks = [task.task for task in config.evaluation.tasks]
    assert [one, two, three] == [f"the data of {task}, which come from the hub" for task in tasks]
    assert "disk: unknown without the models" in output
    assert "understood by mergekit, not tried on all models" in output
    assert output.endswith("All that could be checked is well; the run itself needs those models.\n")


def test_the_ready_run_with_adapters_without_their_models(checked: Checked, adapters: list[str]) -> None:
    output = checked("adapters", *adapters)
    assert [line.partition(" = ")[0] for line in not_checked(output)[:4]] == [
        "base_model",
        *(f"foundation_models.{name}" for name in (*ADAPTERS, "Instruct")),
    ]
    with pytest.raises(ModelError, match=r"adapters/math: there is no such folder"):
        checked("adapters")  # what is no matter of the hub is told all the same


def test_the_ready_run_with_adapters_whole(
    checked: Checked, adapters: list[str], family: Family, tmp_path: Path
) -> None:
    models = [f"foundation_models.{name}.model={family.base}" for name in ADAPTERS]
    settings = [f"foundation_models.Instruct={family.specialists['facts']}", *at_hand(family), *models, *adapters]
    output = checked("adapters", *settings)
    assert output.count("with the adapter") == 2
    assert output.endswith("All is well; start it with `evolve run`.\n")
    twin = shutil.copytree(tmp_path / ADAPTERS[0], tmp_path / "twin")
    same = f"foundation_models.{ADAPTERS[1]}.adapter={twin}"
    with pytest.raises(ModelError, match=f"{ADAPTERS[1]}: has the same files as {ADAPTERS[0]}"):
        checked("adapters", *settings, same)


@pytest.mark.parametrize(
    ("name", "keys"), [("demo", ("coreference", "arithmetic", "facts")), ("offline", tuple("ABC"))]
)
def test_a_run_without_the_hub_is_checked_whole(
    name: str, keys: tuple[str, ...], checked: Checked, family: Family
) -> None:
    output = checked(name, *at_hand(family, *keys))
    assert not not_checked(output)
    assert "(accepted by mergekit)" in output
    assert output.endswith("All is well; start it with `evolve run`.\n")


def test_models_that_are_at_hand_are_checked_where_others_are_not(checked: Checked, family: Family) -> None:
    some = at_hand(family, "MetaMath", "Instruct")
    output = checked("mistral-7b-kinship", *some)
    assert [line.partition(" = ")[0] for line in not_checked(output)] == ["foundation_models.Open-chat"]
    assert "base_model: " in output
    assert "MetaMath: " in output
    assert "a child, at most" in output
    with pytest.raises(ModelError, match="differ in"):
        checked("mistral-7b-kinship", *some, f"foundation_models.Instruct={families.save(family.base.parent / 'odd')}")


@pytest.mark.parametrize(
    ("setting", "error", "words"),
    [
        ("merge.recipe={}", RecipeError, "unknown merge_method 'slurp'"),
        ("evaluation.tasks=[{{task: winogrand}}]", TaskError, "no task or group 'winogrand'"),
        ("evaluation.model=vllm", TaskError, "evaluation.model = vllm: this class of lm-eval needs a package"),
        ("evaluation.model=local-completions", TaskError, "loads no checkpoint"),
    ],
)
def test_what_needs_no_model_is_checked_without_them(
    setting: str, error: type[EvolveError], words: str, checked: Checked, tmp_path: Path
) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text(load_template("slerp").text.replace("merge_method: slerp", "merge_method: slurp"))
    with pytest.raises(error, match=words):
        checked("mistral-7b-kinship", setting.format(recipe))


def test_a_run_needs_what_a_check_can_do_without(
    evolve: Evolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    done = evolve("run", CONFIGS / "mistral-7b-kinship.yaml", "--run-dir", tmp_path / "run")
    assert done.returncode == 2
    assert "base_model = mistralai/Mistral-7B-v0.1: is not in the local hub cache" in done.stderr
    assert not (tmp_path / "run").exists()
