"""The folder of a family: build one, and load one that is complete."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolve.errors import InputError
from evolve.files import MOST_RECORD, read_json
from evolve.nursery.acceptance import OWN_TASK
from evolve.nursery.corpus import Curriculum, Page, Teacher, curriculum, generator, tokenizer_text
from evolve.nursery.recipe import RECIPE_VERSION, SPECIALISTS, NurseryRecipe

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import MistralForCausalLM

MANIFEST = "nursery.json"
"""Written last: a folder without it is not a complete family."""

UNFINISHED = ".nursery-unfinished"
"""Marks the folder during a build: the next build may remove the remains of one that was killed."""

Progress = Callable[[str, int, int], None]
"""Takes the name of the phase, the steps done, and the steps of all phases together."""


@dataclass(frozen=True)
class Family:
    """A complete family.

    Attributes:
        directory: The folder of the family.
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
    """Train a family and write its folder; the result of an earlier build is replaced.

    The same seed and recipe on the same machine give the same bytes. The random generators of the process and its
    number of torch threads do not change.

    Args:
        directory: The folder, which is created if it is missing. Other files in that of an earlier build are kept.
        seed: Seed of the items and the models.
        on_progress: Called after every step of the training.
        recipe: The sizes; None for the defaults.

    Returns:
        The family, with absolute paths.

    Raises:
        InputError: The folder is neither empty nor one of an earlier build, or has something else in the place of a
            result.
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
    """Return the family that `build` wrote to a folder.

    Args:
        directory: The folder.
        seed: The seed that it must have; None for any.
        recipe: The sizes that it must have; None for the defaults.

    Returns:
        The family, or None if the folder has none, an incomplete one, or one of another seed, recipe or version.
    """
    manifest = _read_manifest(directory)
    if manifest is None:
        return None
    family = _layout(directory)
    if manifest != _manifest(family, recipe or NurseryRecipe(), manifest["seed"] if seed is None else seed):
        return None
    models = [family.base, *family.specialists.values()]
    complete = all((model / "model.safetensors").is_file() for model in models)
    return family if complete and all(folder.is_dir() for folder in family.datasets.values()) else None


def refuse_foreign(directory: Path) -> None:
    """Raise InputError unless a folder is missing, empty, or marked by a build.

    Raises:
        OSError: The folder cannot be read.
    """
    if not directory.exists() or (directory / UNFINISHED).is_file() or _read_manifest(directory) is not None:
        return
    names = sorted(path.name for path in directory.iterdir())
    if names:
        raise InputError(
            f"{directory}: is not empty and has no family of `evolve nursery` ({', '.join(names[:3])}); give a new or "
            "an empty folder"
        )


def _read_manifest(directory: Path) -> dict[str, Any] | None:
    """Return the manifest of a family; None if there is none, or another program's file of that name."""
    try:
        manifest = read_json(directory / MANIFEST, MOST_RECORD)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and type(manifest.get("seed")) is int else None


def _layout(directory: Path) -> Family:
    directory = directory.absolute()
    return Family(
        directory=directory,
        base=directory / "base",
        specialists={name: directory / name for name in SPECIALISTS},
        datasets={task: directory / "datasets" / task for task in OWN_TASK.values()},
    )


def _clear(family: Family) -> None:
    """Remove the result of an earlier build, and nothing else, and mark the folder as unfinished."""
    directory = family.directory
    refuse_foreign(directory)
    results = (family.base, *family.specialists.values(), directory / "datasets")
    old = [path for path in results if path.exists() or path.is_symlink()]
    for path in old:
        if path.is_symlink() or not path.is_dir():
            raise InputError(f"{path}: is in the way and was not made by evolve; move it, or give another folder")
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
    # JSON turns tuples into lists.
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


def _write_rows(path: Path, rows: Iterable[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


class _Trainer:
    """A trainer that trains and saves the four models in turn."""

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
        """Train the tokenizer, the base, and each specialist from the saved base."""
        from evolve.nursery import training

        recipe = self._recipe
        tokenizer = training.train_tokenizer(tokenizer_text(self._lessons), recipe.vocabulary)
        base = training.new_model(recipe, tokenizer, self._seed)
        self._train(base, tokenizer, "base", recipe.base_steps, recipe.base_rate)
        for name, steps, rate in zip(SPECIALISTS, recipe.specialist_steps, recipe.specialist_rates, strict=True):
            specialist = training.new_model(recipe, tokenizer, self._seed)
            specialist.load_state_dict(base.state_dict())
            self._train(specialist, tokenizer, name, steps, rate)

    def _train(self, model: MistralForCausalLM, tokenizer: Tokenizer, name: str, steps: int, rate: float) -> None:
        """Train one model and save it."""
        from evolve.nursery import training

        def report(done: int) -> None:
            total = self._recipe.base_steps + sum(self._recipe.specialist_steps)
            self._on_progress(f"training {name}", self._steps_before + done, total)

        batches = self._batches(name, steps)
        training.train(model, tokenizer, batches, steps=steps, peak_rate=rate, recipe=self._recipe, on_step=report)
        self._steps_before += steps
        # Specialists start from the weights of the base's checkpoint, so that their deltas are those on disk.
        training.round_to_bfloat16(model)
        self._save(model, tokenizer, self._family.directory / name)

    def _batches(self, name: str, steps: int) -> Iterator[list[Page]]:
        """Yield the pages of each training step; all pages of a step are on one subject."""
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
        """Write a checkpoint in bfloat16, with its tokenizer."""
        from evolve.nursery.training import for_transformers, save

        save(model, folder)
        for_transformers(tokenizer, self._recipe.positions).save_pretrained(folder)
