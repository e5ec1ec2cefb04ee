"""The configurations in configs/: each is valid, and `evolve check` accepts each with the Hub switched off."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import evolve as package
from evolve.cli import driving
from evolve.config import load_config
from evolve.engines.merging import load_template
from evolve.errors import EvolveError, InputError, ModelError, RecipeError, TaskError
from evolve.nursery import Family
from evolve.run.session import Session
from tests.conftest import Evolve
from tests.support import families
from tests.support.executors import InlineExecutor

CONFIGS = Path(package.__file__).parents[1] / "configs"
FILES = sorted(CONFIGS.glob("*.yaml"))
HUB = ["mistral-7b-greedy", "mistral-7b-kinship", "mistral-7b-six-tasks", "qwen2.5-1.5b"]
ADAPTERS = ("Math-LoRA", "Stories-LoRA")

Checked = Callable[..., str]


def path_of(name: str) -> Path:
    return CONFIGS / f"{name}.yaml"


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Checked:
    """Calls `evolve check` in this process, with the Hub switched off and its cache empty."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(driving, "Session", partial(Session, executors=InlineExecutor))

    def call(name: str, *settings: str, offline: bool = False) -> str:
        driving.check_config(path_of(name), list(settings), offline=offline, download=False, time=False, rehearsal=True)
        return capsys.readouterr().out

    return call


@pytest.fixture
def adapters(tmp_path: Path, family: Family) -> list[str]:
    """Returns settings that give adapters.yaml two real adapters."""
    folders = {name: families.adapt(tmp_path / name, family.base, seed=len(name)) for name in ADAPTERS}
    return [f"foundation_models.{name}.adapter={folder}" for name, folder in folders.items()]


def local(family: Family, *keys: str) -> list[str]:
    """Return settings that replace models and data of a configuration by local ones."""
    models = dict(zip(keys, family.specialists.values(), strict=False))
    settings = [f"foundation_models.{key}={folder}" for key, folder in models.items()]
    data = [f"evaluation.datasets.{task}={folder}" for task, folder in family.datasets.items()]
    return [f"base_model={family.base}", *settings, *data]


def not_checked(output: str) -> list[str]:
    return [line.removeprefix("not checked: ") for line in output.splitlines() if line.startswith("not checked: ")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_configuration_is_valid_and_has_its_recipes(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem  # so that the run folder has the name of the file
    assert all(load_template(recipe).text for recipe in config.merge.recipes)


def test_every_configuration_is_checked_below() -> None:
    assert sorted([*HUB, "adapters", "demo", "offline"]) == [path.stem for path in FILES]


UNREACHABLE = (
    "is not in the local Hub cache, and the Hub is switched off (HF_HUB_OFFLINE); download it first, or give a folder"
)


def hub_sources(name: str) -> dict[str, str]:
    """Return the Hub ids of a configuration, by key."""
    config = load_config(path_of(name))
    models = {f"foundation_models.{key}": str(source) for key, source in config.foundation_models.items()}
    return {"base_model": config.base_model, **models}


@pytest.mark.parametrize("name", HUB)
def test_offline_lists_models_and_data_of_the_hub_as_not_checked(name: str, checked: Checked) -> None:
    output = checked(name, offline=True)
    sources = hub_sources(name).values()
    tasks = [task.task for task in load_config(path_of(name)).evaluation.tasks]
    assert not_checked(output) == [
        *(f"{source}: {UNREACHABLE}" for source in sources),
        *(f"the data of {task}, which are still on the Hub (`evolve check --download` fetches them)" for task in tasks),
    ]
    assert "disk: unknown without the models" in output
    assert "parsed by mergekit" in output
    last = output.splitlines()[-1]
    assert "needs the models that cannot be reached" in last
    assert last.endswith(f"evolve run {path_of(name)}")


@pytest.mark.parametrize("name", HUB)
def test_models_that_cannot_be_reached_are_an_error(name: str, checked: Checked) -> None:
    with pytest.raises(ModelError) as caught:
        checked(name)
    assert caught.value.exit_code == 2
    assert str(caught.value).split("\n") == [
        f"{path_of(name)}: {key} = {source}: {UNREACHABLE}" for key, source in hub_sources(name).items()
    ]


def test_offline_and_download_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exclude each other"):
        driving.check_config(tmp_path / "no.yaml", [], offline=True, download=True, time=False, rehearsal=True)


def test_adapters_without_their_models(checked: Checked, adapters: list[str]) -> None:
    output = checked("adapters", *adapters, offline=True)
    base, instruct = "Qwen/Qwen2.5-1.5B: ", "Qwen/Qwen2.5-1.5B-Instruct: "
    assert [line.removesuffix(UNREACHABLE) for line in not_checked(output)[:4]] == [base, base, base, instruct]
    with pytest.raises(ModelError, match=r"adapters/math: there is no such folder"):
        checked("adapters", offline=True)  # a missing folder is an error, with or without the Hub


def test_adapters_with_their_models(checked: Checked, adapters: list[str], family: Family, tmp_path: Path) -> None:
    models = [f"foundation_models.{name}.model={family.base}" for name in ADAPTERS]
    settings = [f"foundation_models.Instruct={family.specialists['facts']}", *local(family), *models, *adapters]
    output = checked("adapters", *settings)
    assert output.count("with the adapter") == 2
    assert output.splitlines()[-1].startswith(f"Ready: evolve run {path_of('adapters')} --set ")
    twin = shutil.copytree(tmp_path / ADAPTERS[0], tmp_path / "twin")
    same = f"foundation_models.{ADAPTERS[1]}.adapter={twin}"
    with pytest.raises(ModelError, match=f"{ADAPTERS[1]}: has the same files as {ADAPTERS[0]}"):
        checked("adapters", *settings, same)


@pytest.mark.parametrize(
    ("name", "keys"), [("demo", ("coreference", "arithmetic", "facts")), ("offline", tuple("ABC"))]
)
def test_a_configuration_without_the_hub_is_checked_completely(
    name: str, keys: tuple[str, ...], checked: Checked, family: Family
) -> None:
    output = checked(name, *local(family, *keys))
    assert not not_checked(output)
    assert "every pair of foundations planned by mergekit" in output
    assert output.splitlines()[-1].startswith(f"Ready: evolve run {path_of(name)} --set ")


def test_local_models_are_checked_where_others_cannot_be_reached(checked: Checked, family: Family) -> None:
    some = local(family, "MetaMath", "Instruct")
    output = checked("mistral-7b-kinship", *some, offline=True)
    assert not_checked(output) == [f"openchat/openchat-3.5-1210: {UNREACHABLE}"]
    assert "base_model: " in output
    assert "MetaMath: " in output
    assert "a child, at most" in output
    with pytest.raises(ModelError, match="differ in"):
        checked(
            "mistral-7b-kinship",
            *some,
            f"foundation_models.Instruct={families.save(family.base.parent / 'odd')}",
            offline=True,
        )


@pytest.mark.parametrize(
    ("setting", "error", "words"),
    [
        ("merge.recipe={}", RecipeError, "unknown merge_method 'slurp'"),
        ("evaluation.tasks=[{{task: winogrand}}]", TaskError, "no task or group 'winogrand'"),
        ("evaluation.model=vllm", TaskError, "evaluation.model = vllm: this class of lm-eval needs a package"),
        ("evaluation.model=local-completions", TaskError, "loads no checkpoint"),
    ],
)
def test_tasks_and_recipes_are_checked_without_the_models(
    setting: str, error: type[EvolveError], words: str, checked: Checked, tmp_path: Path
) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text(load_template("slerp").text.replace("merge_method: slerp", "merge_method: slurp"))
    with pytest.raises(error, match=words):
        checked("mistral-7b-kinship", setting.format(recipe), offline=True)


def test_a_run_needs_all_models(evolve: Evolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    done = evolve("run", CONFIGS / "mistral-7b-kinship.yaml", "--run-dir", tmp_path / "run")
    assert done.returncode == 2
    assert "base_model = mistralai/Mistral-7B-v0.1: is not in the local Hub cache" in done.stderr
    assert not (tmp_path / "run").exists()
