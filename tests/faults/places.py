"""The families of the rows, built once per session and copied for each row."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from fakes import write_family

from tests.engines.evaluation import _world
from tests.faults.commands import Commands
from tests.faults.table import Family, Place, Step
from tests.support import families


class Places:
    """Makes the folder of a row.

    Args:
        root: Folder for the families.
        commands: Starts the commands of the rows.
    """

    def __init__(self, root: Path, commands: Commands) -> None:
        self._root = root
        self._commands = commands

    def make(self, root: Path, family: Family) -> Place:
        """Return a folder with a family and a foreign folder beside it."""
        place = Place(root, self._commands)
        if family != "none":
            source = getattr(self, f"_{family}")
            shutil.copytree(source, root, symlinks=True, dirs_exist_ok=True)
        write(place.victim / "precious.txt", "precious")
        (root / "temporary").mkdir(exist_ok=True)
        write(place.victim / "deeper" / "precious.txt", "precious")
        return place

    @cached_property
    def _real(self) -> Path:
        return write_real(self._root / "real" / "family").parent

    @cached_property
    def _fake(self) -> Path:
        return write_family(self._root / "fake" / "family").parent.parent

    @cached_property
    def _finished(self) -> Path:
        return self._fake_run("finished")

    @cached_property
    def _begun(self) -> Path:
        """A run that was killed after the first child was scored and before the second was merged."""
        return self._fake_run("begun", EVOLVE_FAULT="journal.after_fsync:9")

    def _fake_run(self, name: str, **env: str) -> Path:
        root = self._root / name
        shutil.copytree(self._fake, root)
        place = Place(root, self._commands)
        arguments = ("run", "<config>", "--run-dir", "<run>")
        ended = self._commands(place, Step(arguments, engines="fake", env=env))
        assert ended.code == (-9 if env else 0), ended.err
        shutil.rmtree(root / "temporary")
        return root


def write_real(folder: Path) -> Path:
    """Write a base, two foundations of a few kilobytes, local items and a configuration with one generation."""
    base = families.save(folder / "base", seed=1)
    for number, name in enumerate(("A", "B"), start=2):
        families.save(folder / name, seed=number, near=base)
    families.winogrande(folder / "winogrande")
    _world.write_lines(folder / "gsm8k" / "train.jsonl", _world.gsm8k_items(4, 3))
    _world.write_lines(folder / "gsm8k" / "test.jsonl", _world.gsm8k_items(4, 4))
    config = {
        "name": "run",
        "base_model": "./base",
        "foundation_models": {"A": "./A", "B": "./B"},
        "strategy": {"max_generations": 1, "stop_at_kinship": None},
        "merge": {"recipe": "slerp", "dtype": "float32"},
        "evaluation": {
            "tasks": [{"task": "winogrande", "metric": "acc,none", "num_fewshot": 1}],
            "datasets": {"winogrande": "./winogrande"},
            "model_args": {"dtype": "float32"},
            "batch_size": 4,
        },
        "device": "cpu",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


# ------------------------------------------------------------------------------------------------------ small changes


def write(path: Path, text: str | bytes) -> Path:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def text(name: str, content: str | bytes) -> Callable[[Place], object]:
    """Return a change that writes a file of the family."""
    return lambda place: write(place.family / name, content)


def configure(**keys: Any) -> Callable[[Place], object]:
    """Return a change that sets keys of the configuration; `evaluation__limit=3` sets `evaluation.limit`."""

    def change(place: Place) -> None:
        raw = yaml.safe_load(place.config.read_text())
        for name, value in keys.items():
            *sections, last = name.split("__")
            section = raw
            for part in sections:
                section = section.setdefault(part, {}) if isinstance(section, dict) else section[int(part)]
            section[last] = json.loads(place.named(json.dumps(value)))
        place.config.write_text(yaml.safe_dump(raw, sort_keys=False))

    return change


def edit_json(name: str, change: Callable[[Any], Any]) -> Callable[[Place], object]:
    """Return a change that replaces a JSON file of the family by what a function makes of it.

    A function that returns None has changed its argument.
    """

    def edit(place: Place) -> None:
        path = place.family / name
        content = json.loads(path.read_text())
        changed = change(content)
        path.write_text(json.dumps(content if changed is None else changed))

    return edit


def together(*changes: Callable[[Place], object]) -> Callable[[Place], object]:
    """Return a change that makes several."""

    def change(place: Place) -> None:
        for one in changes:
            one(place)

    return change


def task_of_questions(items: str) -> dict[str, Any]:
    """Return the entries of a task of yes-or-no questions, without the one for their answers.

    Args:
        items: The file of the questions, which may have `<root>` and the like.
    """
    return {
        "task": "mine",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": items}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_choice": ["yes", "no"],
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
