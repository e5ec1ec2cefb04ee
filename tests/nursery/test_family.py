"""Building and loading a family: the layout, determinism, incomplete folders, and the family of the demo."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, MistralForCausalLM

from evolve.errors import InputError
from evolve.nursery import Family, NurseryRecipe, build, load, refuse_foreign
from evolve.nursery import family as family_module
from evolve.nursery.family import UNFINISHED
from tests.conftest import Evolve

ROOT = Path(__file__).parents[2]
BUILD = """
import json, sys
from pathlib import Path
from evolve.nursery import NurseryRecipe, build
sizes = {key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(sys.argv[2]).items()}
build(Path(sys.argv[1]), seed=int(sys.argv[3]), recipe=NurseryRecipe(**sizes))
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def models(family: Family) -> dict[str, Path]:
    return {"base": family.base, **family.specialists}


def test_layout(micro: Family) -> None:
    assert {path.name for path in micro.directory.iterdir()} == {
        "base",
        "coreference",
        "arithmetic",
        "facts",
        "datasets",
        "nursery.json",
    }, "no draft and no marker is left"
    for folder in models(micro).values():
        names = {path.name for path in folder.iterdir()}
        assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names


def test_a_fresh_process_gives_the_same_bytes(micro: Family, tmp_path: Path, recipe: NurseryRecipe, seed: int) -> None:
    # Another hash seed: an order that depends on it would differ.
    subprocess.run(
        [sys.executable, "-c", BUILD, str(tmp_path / "again"), json.dumps(asdict(recipe)), str(seed)],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "12345"},
    )
    assert contents(tmp_path / "again") == contents(micro.directory)


def test_another_seed_gives_another_family(micro: Family, tmp_path: Path, recipe: NurseryRecipe, seed: int) -> None:
    other = build(tmp_path, seed=seed + 1, recipe=recipe)
    for name, folder in models(other).items():
        assert (folder / "model.safetensors").read_bytes() != (models(micro)[name] / "model.safetensors").read_bytes()
    for task, folder in other.datasets.items():
        assert contents(folder) != contents(micro.datasets[task])


def test_models_load_and_differ(micro: Family) -> None:
    weights = {}
    for name, folder in models(micro).items():
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert isinstance(model, MistralForCausalLM)
        assert model.dtype == torch.bfloat16
        weights[name] = torch.cat([weight.flatten() for weight in model.state_dict().values()]).float()
        assert weights[name].isfinite().all()
    for name in micro.specialists:
        assert not torch.equal(weights[name], weights["base"])


def test_the_tokenizer_encodes_every_text(micro: Family, recipe: NurseryRecipe) -> None:
    for folder in models(micro).values():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert (tokenizer.pad_token, tokenizer.eos_token) == ("<pad>", "</s>")
        assert len(tokenizer) == recipe.vocabulary
        for text in ("Janet\u2019s ducks lay 16 eggs.", "日本語 🦆 Ünïcödé\t\r\n", bytes(range(128)).decode()):
            assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_configuration_allows_generation(micro: Family, recipe: NurseryRecipe) -> None:
    model = AutoModelForCausalLM.from_pretrained(micro.base)
    tokenizer = AutoTokenizer.from_pretrained(micro.base)
    settings = GenerationConfig.from_pretrained(micro.base)
    for config in (model.config, settings):
        assert config.pad_token_id == tokenizer.pad_token_id
        assert config.eos_token_id == tokenizer.eos_token_id
    assert model.config.max_position_embeddings == recipe.positions
    prompt = tokenizer("Question: How many eggs?\nAnswer:", return_tensors="pt")
    written = model.generate(**prompt, max_new_tokens=3, do_sample=False)
    assert written.shape[1] > prompt["input_ids"].shape[1]


def test_the_generators_and_threads_of_the_process_do_not_change(
    tmp_path: Path, recipe: NurseryRecipe, seed: int
) -> None:
    torch.manual_seed(1)
    random.seed(1)
    state, python_state, threads = torch.get_rng_state(), random.getstate(), torch.get_num_threads()
    build(tmp_path, seed=seed, recipe=recipe)
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == python_state
    assert torch.get_num_threads() == threads


def test_progress_counts_all_steps(tmp_path: Path, recipe: NurseryRecipe, seed: int) -> None:
    reports: list[tuple[str, int, int]] = []
    build(tmp_path, seed=seed, recipe=recipe, on_progress=lambda *report: reports.append(report))
    total = recipe.base_steps + sum(recipe.specialist_steps)
    assert [done for _, done, _ in reports] == list(range(1, total + 1))
    assert {total for _, _, total in reports} == {total}
    assert list(dict.fromkeys(phase for phase, _, _ in reports)) == [
        "training base",
        "training coreference",
        "training arithmetic",
        "training facts",
    ]


def test_a_complete_family_is_loaded(micro: Family, recipe: NurseryRecipe, seed: int) -> None:
    assert load(micro.directory, recipe=recipe) == micro
    assert load(micro.directory, seed=seed, recipe=recipe) == micro


def test_a_family_of_another_seed_recipe_or_version_is_not_loaded(
    micro: Family, monkeypatch: pytest.MonkeyPatch, recipe: NurseryRecipe, seed: int
) -> None:
    assert load(micro.directory, seed=seed + 1, recipe=recipe) is None
    assert load(micro.directory, seed=seed) is None
    monkeypatch.setattr(family_module, "RECIPE_VERSION", 0)
    assert load(micro.directory, recipe=recipe) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"seed": null}', "\xff"])
def test_a_family_with_a_damaged_manifest_is_not_loaded(
    micro: Family, tmp_path: Path, text: str, recipe: NurseryRecipe
) -> None:
    copy = shutil.copytree(micro.directory, tmp_path / "copy")
    (copy / "nursery.json").write_text(text, encoding="latin-1")
    assert load(copy, recipe=recipe) is None


@pytest.mark.parametrize("missing", ["nursery.json", "facts/model.safetensors", "datasets/gsm8k"])
def test_a_family_with_missing_parts_is_not_loaded(
    micro: Family, tmp_path: Path, missing: str, recipe: NurseryRecipe
) -> None:
    copy = shutil.copytree(micro.directory, tmp_path / "copy")
    path = copy / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert load(copy, recipe=recipe) is None


def test_a_missing_folder_or_a_file_is_not_loaded(tmp_path: Path) -> None:
    assert load(tmp_path / "nowhere") is None
    (tmp_path / "file").touch()
    assert load(tmp_path / "file") is None


def test_an_interrupted_build_is_not_loaded_and_starts_again(
    micro: Family, tmp_path: Path, recipe: NurseryRecipe, seed: int
) -> None:
    directory = shutil.copytree(micro.directory, tmp_path / "nursery")
    (directory / "base" / "stray.safetensors").touch()

    class Stopped(Exception):
        pass

    def stop(_phase: str, done: int, _total: int) -> None:
        if done == recipe.base_steps + 2:
            raise Stopped

    with pytest.raises(Stopped):
        build(directory, seed=seed, recipe=recipe, on_progress=stop)
    assert load(directory, recipe=recipe) is None
    assert not (directory / "nursery.json").exists()
    build(directory, seed=seed, recipe=recipe)
    assert contents(directory) == contents(micro.directory)


def test_other_files_in_the_folder_are_kept(tmp_path: Path, recipe: NurseryRecipe, seed: int) -> None:
    (tmp_path / UNFINISHED).touch()
    (tmp_path / "notes.txt").write_text("mine")
    build(tmp_path, seed=seed, recipe=recipe)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def _files(folder: Path) -> dict[Path, str | None]:
    return {path: path.read_text() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("name", ["base", "datasets", "thesis", ".git", "file"])
def test_folders_that_evolve_did_not_make_are_refused(tmp_path: Path, recipe: NurseryRecipe, name: str) -> None:
    if name == "file":
        (tmp_path / name).write_text("mine")
    else:
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("mine")
    before = _files(tmp_path)
    with pytest.raises(InputError, match=rf"is not empty and has no family of `evolve nursery` \({name}\)"):
        build(tmp_path, recipe=recipe)
    assert _files(tmp_path) == before


@pytest.mark.parametrize("kind", ["link", "file", "dangling link"])
def test_foreign_files_in_the_place_of_results_are_refused(tmp_path: Path, recipe: NurseryRecipe, kind: str) -> None:
    family, foreign = tmp_path / "family", tmp_path / "foreign"
    family.mkdir()
    (family / UNFINISHED).touch()
    if kind == "link":
        foreign.mkdir()
        (foreign / "thesis.txt").write_text("mine")
    if kind == "file":
        (family / "base").write_text("mine")
    else:
        (family / "base").symlink_to(foreign)
    before = _files(tmp_path)
    with pytest.raises(InputError, match="base: is in the way and was not made by evolve"):
        build(family, recipe=recipe)
    assert _files(tmp_path) == before


def test_a_link_to_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    refuse_foreign(tmp_path / "link")
    (tmp_path / "empty" / "mine").touch()
    with pytest.raises(InputError, match="link: is not empty"):
        refuse_foreign(tmp_path / "link")
    (tmp_path / "empty" / UNFINISHED).touch()
    refuse_foreign(tmp_path / "link")


def test_paths_are_absolute(tmp_path: Path, micro: Family, monkeypatch: pytest.MonkeyPatch, recipe) -> None:
    # A relative model path makes the engines ask the hub.
    monkeypatch.chdir(micro.directory.parent)
    assert load(Path("nursery"), recipe=recipe) == micro
    assert micro.base.is_absolute()


def test_importing_the_package_loads_no_heavy_library() -> None:
    heavy = "{'torch', 'transformers', 'tokenizers', 'numpy'} & set(sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", f"import sys, evolve.nursery; print(sorted({heavy}))"],
        check=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.family
def test_the_family_of_the_demo_is_accepted(tmp_path: Path, evolve: Evolve) -> None:
    """`evolve nursery` exits with 0 only if each specialist is best at its task and a merge beats both its parents."""
    done = evolve("nursery", tmp_path / "nursery", timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    family = load(tmp_path / "nursery")
    assert family is not None
    assert set(family.specialists) == {"coreference", "arithmetic", "facts"}
    assert json.loads((tmp_path / "nursery" / "nursery.json").read_text())["seed"] == 0
