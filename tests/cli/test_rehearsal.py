"""The rehearsal before a run: what only the engines can find is refused with its key, and leaves no files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from executors import InlineExecutor
from fakes import FAKE

from evolve.cli import driving
from evolve.nursery import Family
from evolve.run.executors import LocalExecutor
from evolve.run.session import Session
from tests.conftest import TASKS, write_config
from tests.support.recipes import SLERP

Tensors = dict[str, Any]
Refused = Callable[..., str]


@pytest.fixture
def shared(worker: LocalExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands use one worker, because loading the engines takes seconds."""
    monkeypatch.setattr(driving, "Session", partial(Session, executors=lambda progress, device: worker))


def _copy(model: Path, folder: Path, *, tensors: Callable[[Tensors], Tensors] | None = None, **settings: Any) -> Path:
    """Copy a model with other tensors and other entries of config.json."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    if tensors is not None:
        save_file(tensors(load_file(model / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | settings))
    return folder


def _small_numbers(tensors: Tensors) -> Tensors:
    import torch

    return {name: value.to(torch.float8_e4m3fn) if "mlp" in name else value for name, value in tensors.items()}


def _fewer_rows(tensors: Tensors) -> Tensors:
    outer = ("model.embed_tokens.weight", "lm_head.weight")
    return {name: value[:500].clone() if name in outer else value for name, value in tensors.items()}


def _one_nan(tensors: Tensors) -> Tensors:
    return {name: value * float("nan") if "1.mlp.up" in name else value for name, value in tensors.items()}


QUANTIZED = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
MODELS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "a quantized model": ("facts", QUANTIZED, ("foundation_models.facts = {}: is quantized", "give the unquantized")),
    "a quantized base": ("base", QUANTIZED, ("base_model = {}: is quantized",)),
    "weights of eight bits": ("facts", {"tensors": _small_numbers}, ("foundation_models.facts = {}: ", "type F8_E4M3")),
    "another vocabulary size": (
        "facts",
        {"vocab_size": 600},
        ("foundation_models.facts = {}: its embeddings have 512 rows, but vocab_size in config.json is 600",),
    ),
    "another vocabulary size of the base": ("base", {"vocab_size": 600}, ("base_model = {}: its embeddings have 512",)),
    "tokens without rows": (
        "facts",
        {"tensors": _fewer_rows, "vocab_size": 500},
        ("{}", "its tokenizer gives the token", "its embeddings have only 500 rows"),
    ),
    "a number that is not finite": (
        "facts",
        {"tensors": _one_nan},
        ("foundation_models.facts = {}: the weights 'model.layers.1.mlp.up_proj.weight'", "are not all finite"),
    ),
}


@pytest.mark.parametrize(("name", "changes", "words"), MODELS.values(), ids=MODELS)
@pytest.mark.usefixtures("shared")
def test_a_model_that_cannot_be_scored_or_merged(
    *, refused: Refused, family: Family, tmp_path: Path, name: str, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    models = {"base": family.base, **family.specialists}
    folder = _copy(models[name], tmp_path / "changed", **changes)
    models[name] = folder
    config = write_config(
        tmp_path / "mine.yaml",
        family,
        base_model=str(models.pop("base")),
        foundation_models={key: str(path) for key, path in models.items()},
    )
    refused("check", config, words=(f"{config}: ", *(word.format(folder) for word in words)))


@pytest.mark.usefixtures("shared")
def test_a_model_without_a_tokenizer(refused: Refused, family: Family, tmp_path: Path) -> None:
    folder = _copy(family.specialists["facts"], tmp_path / "changed")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    models = {name: str(path) for name, path in family.specialists.items()} | {"facts": str(folder)}
    config = write_config(tmp_path / "mine.yaml", family, foundation_models=models)
    refused("check", config, words=(f"{config}: ", f"{folder} has no tokenizer files", "copy those"))
    config = write_config(tmp_path / "mine.yaml", family, foundation_models=models, merge={"tokenizer": "base"})
    refused("check", config, words=(f"{config}: ", str(folder), "okenizer"))


def _evaluation(family: Family, **changes: Any) -> dict[str, Any]:
    folders = {task: str(folder) for task, folder in family.datasets.items()}
    return {"tasks": TASKS, "datasets": folders, "model_args": {"dtype": "float32"}, "limit": 12} | changes


def _generating(**settings: Any) -> list[dict[str, Any]]:
    return [TASKS[0], {**TASKS[1], "generation_kwargs": settings}, TASKS[2]]


SETTINGS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "an unknown argument of the model class": (
        {"model_args": {"dtpye": "float32"}},
        ('evaluation.model_args.dtpye = "float32": ', "unexpected keyword argument 'dtpye'"),
    ),
    "an unknown type": (
        {"model_args": {"dtype": "float99"}},
        ('evaluation.model_args.dtype = "float99": ', "no attribute 'float99'"),
    ),
    "an argument of a wrong type": (
        {"model_args": {"dtype": "float32", "max_length": "long"}},
        ("evaluation.tasks.0 = {task: winogrande}: no foundation model can be scored", "'int' and 'str'"),
    ),
    "an unknown argument of generation": (
        {"tasks": _generating(max_gen_tokz=8)},
        ("evaluation.tasks.1.generation_kwargs.max_gen_tokz = 8: ", "task 'gsm8k'", "not used by the model"),
    ),
    "a chat template that no model has": (
        {"apply_chat_template": True},
        ("evaluation.apply_chat_template = true: no foundation model can be scored", "add chat_template.jinja"),
    ),
}


@pytest.mark.parametrize(("changes", "words"), SETTINGS.values(), ids=SETTINGS)
@pytest.mark.usefixtures("shared")
def test_a_setting_of_the_evaluation(
    refused: Refused, family: Family, tmp_path: Path, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    config = write_config(tmp_path / "mine.yaml", family, evaluation=_evaluation(family, **changes))
    refused("check", config, words=(f"{config}: ", *words))


@pytest.mark.usefixtures("shared")
def test_a_chat_template_that_one_model_lacks(refused: Refused, family: Family, tmp_path: Path) -> None:
    models = {}
    for name, folder in family.specialists.items():
        models[name] = _copy(folder, tmp_path / name)
        if name != "arithmetic":
            (models[name] / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    config = write_config(
        tmp_path / "mine.yaml",
        family,
        foundation_models={name: str(folder) for name, folder in models.items()},
        evaluation=_evaluation(family, apply_chat_template=True),
    )
    key = f"foundation_models.arithmetic = {models['arithmetic']}"
    refused("check", config, words=(f"{config}: {key}: its tokenizer has no chat template",))


LINEAR = """merge_method: linear
models:
  - {model: {{ parent_1 }}, parameters: {weight: 0.5}}
  - {model: {{ parent_2 }}, parameters: {weight: 0.5}}
dtype: {{ dtype }}
"""
DARE = """merge_method: dare_linear
base_model: {{ base_model }}
models:
  - {model: {{ parent_1 }}, parameters: {weight: 0.5, density: 0.5}}
  - {model: {{ parent_2 }}, parameters: {weight: 0.5, density: 0.5}}
dtype: {{ dtype }}
"""
RECIPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "half of the layers": (SLERP.replace("{{ num_layers }}", "1"), ("num_hidden_layers 1", "change the slices")),
    "whole numbers": (SLERP.replace("{{ dtype }}", "int8"), ('Unimplemented dtype "int8"',)),
    "t is not a number": (SLERP.replace("0.5", ".nan"), ("parameters.t = nan: it must be finite",)),
    "t is not a number in the last layer": (
        SLERP.replace("0.5", "[0.5, .nan]"),
        ("parameters.t[1] = nan: it must be finite",),
    ),
    "an infinite weight": (LINEAR.replace("0.5", ".inf"), ("weight = inf: it must be finite",)),
    "weights of zero": (LINEAR.replace("0.5", "0.0"), ("every weight in the recipe is 0",)),
    "weights that cancel": (LINEAR.replace("0.5", "-0.5", 1), ("numbers that are not finite", "check the numbers")),
    "a negative density": (DARE.replace("density: 0.5", "density: -0.5"), ("mergekit cannot merge", "p")),
}


@pytest.mark.parametrize(("text", "words"), RECIPES.values(), ids=RECIPES)
@pytest.mark.usefixtures("shared")
def test_a_recipe_that_makes_no_usable_child(
    refused: Refused, family: Family, tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    recipe = tmp_path / "mine-recipe.yaml"
    recipe.write_text(text)
    config = write_config(tmp_path / "mine.yaml", family, merge={"recipe": "./mine-recipe.yaml"})
    refused("check", config, words=(f"{config}: merge.recipe = {recipe}: ", *words))


@pytest.mark.usefixtures("shared")
def test_a_refused_start_leaves_no_files_and_the_corrected_configuration_starts(
    refused: Refused, command: Callable[..., Any], family: Family, tmp_path: Path
) -> None:
    config = write_config(
        tmp_path / "mine.yaml",
        family,
        strategy={"max_generations": 1},
        evaluation=_evaluation(family, tasks=_generating(max_gen_tokz=8), limit=4),
    )
    refused("run", config, words=("evaluation.tasks.1.generation_kwargs.max_gen_tokz = 8: ",))
    assert not (tmp_path / "runs").exists()
    answer = command("run", config, "--set", "evaluation.tasks.1.generation_kwargs={max_gen_toks: 8}")
    assert answer.code == 0, answer.err
    assert (tmp_path / "runs" / "mine" / "models" / "model-1-3").is_dir()


# ----------------------------------------------------------------------------------------- with engines that are fakes


@pytest.fixture
def check(
    command: Callable[..., Any], fake_family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driving, "REAL", FAKE)
    monkeypatch.setattr(driving, "Session", partial(Session, executors=InlineExecutor))
    return partial(command, "check", fake_family)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("unfit:B:wrong", "foundation_models.B = {}/B: it is wrong"),
        ("unfit:A:wrong,unfit:B:wrong", "foundation_models.A = {}/A: it is wrong"),
        ("unfit:A:wrong,unfit:B:broken,unfit:C:wrong", "foundation_models.A = {}/A: it is wrong"),
        ("unfit:*:wrong", "evaluation.model_args = {{}}: no foundation model can be scored: it is wrong"),
        (
            "rehearsed:B:85.0",
            "evaluation.tasks.0.metric = acc,none: 85 is no value of acc, which is between 0 and 1; give this metric",
        ),
        ("rehearse:B:memory", "device = auto: rehearse B: it ran out of memory"),
        ("rehearse:slerp:memory", "device = auto: rehearse recipe slerp: it ran out of memory"),
    ],
)
def test_a_fault_of_all_models_is_one_of_a_setting(
    check: Callable[..., Any], fake_family: Path, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    monkeypatch.setenv("EVOLVE_FAKE", fault)
    answer = check()
    assert answer.code == 2
    assert answer.err.startswith(f"evolve: {fake_family}: {words.format(fake_family.parent)}")
    assert len(answer.err.splitlines()) == 1


def test_a_model_that_fits_with_smaller_batches_passes(
    check: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOLVE_FAKE", f"rehearse:A:memory:1:{tmp_path / 'count'}")
    assert check().code == 0
    (tmp_path / "count").unlink()
    answer = check("--set", "evaluation.batch_size=auto")
    assert answer.code == 2
    assert "evaluation.batch_size = auto: rehearse A: it ran out of memory" in answer.err
    assert "set it to a number" in answer.err


def test_it_can_be_turned_off(
    check: Callable[..., Any], command: Callable[..., Any], fake_family: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOLVE_FAKE", "unfit:*:wrong")
    answer = check("--no-rehearsal")
    assert answer.code == 0, answer.err
    assert "rehearsal: none (--no-rehearsal)" in answer.out
    assert command("run", fake_family).code == 2
    answer = command("run", fake_family, "--no-rehearsal")
    assert answer.code == 0, answer.err
    assert answer.out.count("no rehearsal (--no-rehearsal)") == 1


def test_it_says_what_it_did(check: Callable[..., Any], command: Callable[..., Any], fake_family: Path) -> None:
    line = "rehearsal: A, B, C scored on the first documents of each task; a part of one pair merged by slerp"
    assert line in check().out.splitlines()
    answer = command("run", fake_family)
    assert answer.out.count(line) == 1, answer.out
