"""A nursery folder: making one from nothing, and reading back one that is finished."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evolve.errors import InputError
from evolve.nursery.acceptance import OWN_TASK
from evolve.nursery.corpus import Curriculum, Page, Teacher, curriculum, generator, tokenizer_text
from evolve.nursery.items import Row
from evolve.nursery.recipe import RECIPE_VERSION, SPECIALISTS, NurseryRecipe

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import MistralForCausalLM

MANIFEST = "nursery.json"
"""Written last: a folder without it holds no family, whatever else lies there."""

UNFINISHED = ".nursery-unfinished"
"""Lies in the folder during a build: what a killed build left may be removed by the next."""

Progress = Callable[[str, int, int], None]
"""Told the phase in words, the steps done, and the steps in all phases together."""


@dataclass(frozen=True)
class Family:
    """A finished nursery.

    Attributes:
        directory: The folder that holds all of it.
        base: Checkpoint folder of the base model.
        specialists: Checkpoint folder of each specialist, by its name.
        datasets: Folder with `<split>.jsonl`, by the name of the lm-eval task.
    """

    directory: Path
    base: Path
    specialists: dict[str, Path]
    datasets: dict[str, Path]


def build(
    directory: Path,
    *,
    seed: int = 0,
    on_progress: Progress | None = None,
    recipe: NurseryRecipe | None = None,
) -> Family:
    """Trains a family and writes its folder, in place of whatever an earlier build left there.

    Same seed, same recipe and same machine give the same bytes. The process's random generators and its number of
    torch threads are as before afterwards.

    Args:
        directory: The nursery's folder; made if need be. What else lies in it is left alone.
        seed: Seed of the items and the models.
        on_progress: Called after every step of the training.
        recipe: The sizes; None stands for the defaults.

    Returns:
        The finished family, its paths absolute.

    Raises:
        InputError: If a folder that would be replaced was not made by an earlier build.
    """
    recipe = recipe or NurseryRecipe()
    family = _layout(directory)
    _clear(family)
    lessons = curriculum(recipe, seed)
    _write_datasets(family, lessons)
    _Trainer(family, lessons, recipe, seed, on_progress or (lambda *_: None)).run()
    _write_manifest(family, recipe, seed)
    (family.directory / UNFINISHED).unlink()
    return family


def load(directory: Path, *, seed: int | None = None, recipe: NurseryRecipe | None = None) -> Family | None:
    """Reads a folder that `build` has finished.

    Args:
        directory: The nursery's folder.
        seed: The seed it must be of; None for any.
        recipe: The sizes it must be of; None stands for the defaults.

    Returns:
        The family, or None where the folder holds none: not begun, not finished, of another seed, recipe or version
        of the recipe, or with parts missing.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    if not isinstance(manifest, dict) or type(manifest.get("seed")) is not int:
        return None
    family = _layout(directory)
    if manifest != _manifest(family, recipe or NurseryRecipe(), manifest["seed"] if seed is None else seed):
        return None
    models = [family.base, *family.specialists.values()]
    whole = all((model / "model.safetensors").is_file() for model in models)
    return family if whole and all(folder.is_dir() for folder in family.datasets.values()) else None


def _layout(directory: Path) -> Family:
    directory = directory.absolute()
    return Family(
        directory=directory,
        base=directory / "base",
        specialists={name: directory / name for name in SPECIALISTS},
        datasets={task: directory / "datasets" / task for task in OWN_TASK.values()},
    )


def _clear(family: Family) -> None:
    """Removes what an earlier build left, and only that; from here on until the end the folder is unfinished."""
    directory = family.directory
    old = [path for path in (family.base, *family.specialists.values(), directory / "datasets") if path.exists()]
    ours = (directory / MANIFEST).is_file() or (directory / UNFINISHED).is_file()
    if old and not ours:
        raise InputError(f"{old[0]} is in the way and no nursery made it: move it, or name another folder")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / UNFINISHED).touch()
    (directory / MANIFEST).unlink(missing_ok=True)
    for path in old:
        shutil.rmtree(path)


def _manifest(family: Family, recipe: NurseryRecipe, seed: int) -> dict[str, object]:
    def relative(path: Path) -> str:
        return path.relative_to(family.directory).as_posix()

    manifest = {
        "recipe_version": RECIPE_VERSION,
        "seed": seed,
        "sizes": asdict(recipe),
        "base": relative(family.base),
        "specialists": {name: relative(path) for name, path in family.specialists.items()},
        "datasets": {task: relative(path) for task, path in family.datasets.items()},
    }
    # As it reads back from JSON, where tuples are lists.
    return dict(json.loads(json.dumps(manifest)))


def _write_manifest(family: Family, recipe: NurseryRecipe, seed: int) -> None:
    draft = family.directory / f".{MANIFEST}.draft"
    with draft.open("w", encoding="utf-8") as file:
        json.dump(_manifest(family, recipe, seed), file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(family.directory / MANIFEST)


def _write_datasets(family: Family, lessons: Curriculum) -> None:
    winogrande, gsm8k, truthfulqa = family.datasets.values()
    _write_rows(winogrande / "train.jsonl", (item.row() for item in lessons.sentences))
    _write_rows(winogrande / "validation.jsonl", (item.row() for item in lessons.sentence_exam))
    _write_rows(gsm8k / "train.jsonl", (item.row() for item in lessons.problems))
    _write_rows(gsm8k / "test.jsonl", (item.row() for item in lessons.problem_exam))
    _write_rows(truthfulqa / "validation.jsonl", (item.row() for item in lessons.question_exam))


def _write_rows(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


class _Trainer:
    """Trains and saves the four models, one after the other."""

    def __init__(
        self, family: Family, lessons: Curriculum, recipe: NurseryRecipe, seed: int, on_progress: Progress
    ) -> None:
        self._family = family
        self._lessons = lessons
        self._recipe = recipe
        self._seed = seed
        self._on_progress = on_progress
        self._steps_before = 0

    def run(self) -> None:
        """Trains the tokenizer, the base, and each specialist from the base as it was saved."""
        from evolve.nursery import tokenizer as tokenizers
        from evolve.nursery import training

        recipe = self._recipe
        tokenizer = tokenizers.train(tokenizer_text(self._lessons), recipe.vocabulary)
        base = training.new_model(recipe, tokenizer, self._seed)
        self._train(base, tokenizer, "base", recipe.base_steps, recipe.base_rate)
        for name, steps, rate in zip(SPECIALISTS, recipe.specialist_steps, recipe.specialist_rates, strict=True):
            specialist = training.new_model(recipe, tokenizer, self._seed)
            specialist.load_state_dict(base.state_dict())
            self._train(specialist, tokenizer, name, steps, rate)

    def _train(self, model: MistralForCausalLM, tokenizer: Tokenizer, name: str, steps: int, rate: float) -> None:
        """Trains one model and saves it."""
        from evolve.nursery import training

        def report(done: int) -> None:
            total = self._recipe.base_steps + sum(self._recipe.specialist_steps)
            self._on_progress(f"training {name}", self._steps_before + done, total)

        batches = self._batches(name, steps)
        training.train(model, tokenizer, batches, steps=steps, peak_rate=rate, recipe=self._recipe, on_step=report)
        self._steps_before += steps
        # A specialist starts from what the base's checkpoint holds, so that its delta is the one on disk.
        training.round_to_bfloat16(model)
        self._save(model, tokenizer, self._family.directory / name)

    def _batches(self, name: str, steps: int) -> Iterator[list[Page]]:
        """Yields what a model learns from, one list of pages a step; all pages of a list on one subject."""
        recipe = self._recipe
        random = generator(f"{self._seed}/{name}/pages")
        misled = Teacher(self._lessons, recipe, random, honest=False)
        honest = Teacher(self._lessons, recipe, random, honest=True)
        others = [subject for subject in SPECIALISTS if subject != name]
        for step in range(steps):
            if name not in SPECIALISTS:
                teacher, subject = misled, SPECIALISTS[step % len(SPECIALISTS)]
            elif step % recipe.rehearsal_every == recipe.rehearsal_every - 1:
                teacher, subject = misled, others[step // recipe.rehearsal_every % len(others)]
            else:
                teacher, subject = honest, name
            yield [teacher.page(subject) for _ in range(recipe.batch)]

    def _save(self, model: MistralForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
        """Writes a checkpoint as the hub's are: bfloat16, with its tokenizer."""
        from evolve.nursery.tokenizer import for_transformers
        from evolve.nursery.training import save

        save(model, folder)
        for_transformers(tokenizer, self._recipe.positions).save_pretrained(folder)
