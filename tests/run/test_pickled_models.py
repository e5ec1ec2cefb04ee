"""Runs of models with pickled weights: conversion, sharing, repair and refusal."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from executors import InlineExecutor
from fakes import FAKE, write_family, write_model
from safetensors.torch import load_file, save_file

from evolve.config import load_config
from evolve.errors import InputsChangedError, ModelError
from evolve.run.executors import Call, Executor, Outcome, Progress
from evolve.run.folder import RunFolder
from evolve.run.inputs import Fetch
from evolve.run.interrupts import Interrupted
from evolve.run.observer import Silent
from evolve.run.session import Session


class Case:
    """A family with a pickled base and a pickled foundation B."""

    def __init__(self, root: Path) -> None:
        self.config, self.run = write_family(root / "family"), root / "runs" / "run"
        self.family, self.cache = root / "family", root / "runs" / ".converted"
        for name in ("base", "B"):
            self.pickle(name)

    def pickle(self, name: str, of: str | None = None) -> None:
        weights = load_file(self.family / (of or name) / "model.safetensors")
        (self.family / name / "model.safetensors").unlink(missing_ok=True)
        torch.save(weights, self.family / name / "pytorch_model.bin")

    def start(
        self, run: Path | None = None, executors: Callable[[Progress, str], Executor] = InlineExecutor
    ) -> dict[str, str]:
        """Run; return the folders of the base and the foundations."""
        config = load_config(self.config, ["allow_pickled_weights=true", "strategy.max_generations=1"])
        Session(FAKE, Silent(), executors=executors).run(config, run or self.run)
        event = self.started(run or self.run)
        folder = RunFolder(run or self.run)
        return {entry["name"]: str(folder.locate(entry["path"])) for entry in [event["base"], *event["foundations"]]}

    @staticmethod
    def started(run: Path) -> dict:
        return json.loads((run / "journal.jsonl").read_text().splitlines()[0])["event"]

    def converted(self) -> list[Path]:
        return sorted(self.cache.glob("[!.]*"))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_runs_in_one_folder_share_converted_models(case: Case) -> None:
    paths = case.start()
    assert {paths["base_model"], paths["B"]} == {str(path) for path in case.converted()}
    assert paths["A"] == str(case.family / "A")
    assert sorted(case.cache.iterdir()) == case.converted()  # and no lock
    assert case.started(case.run)["base"]["source"] == str(case.family / "base")
    before = {path: path.stat().st_mtime_ns for folder in case.converted() for path in folder.iterdir()}
    assert case.start(case.run.with_name("again")) == paths
    assert {path: path.stat().st_mtime_ns for folder in case.converted() for path in folder.iterdir()} == before


def test_a_missing_or_truncated_conversion_is_repeated(case: Case) -> None:
    case.start()
    first, second = case.converted()
    original = (second / "model.safetensors").read_bytes()
    for _ in range(2):
        shutil.rmtree(first)
        (second / "model.safetensors").write_bytes(original[:-1])
        lines = (case.run / "journal.jsonl").read_bytes().splitlines(keepends=True)
        (case.run / "journal.jsonl").write_bytes(b"".join(lines[:3]))
        Session(FAKE, Silent(), executors=InlineExecutor).resume(case.run)
        assert case.converted() == [first, second]
        assert (second / "model.safetensors").read_bytes() == original


def test_converted_models_do_not_need_their_originals(case: Case) -> None:
    case.start()
    shutil.rmtree(case.family / "B")
    lines = (case.run / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (case.run / "journal.jsonl").write_bytes(b"".join(lines[:3]))
    assert Session(FAKE, Silent(), executors=InlineExecutor).resume(case.run).worked
    (case.run / "journal.jsonl").write_bytes(b"".join(lines[:3]))
    shutil.rmtree(case.cache)
    with pytest.raises(ModelError, match=r"the converted copy of B is missing, and .*/B: there is no such folder"):
        Session(FAKE, Silent(), executors=InlineExecutor).resume(case.run)


def test_weights_that_cannot_be_converted_are_refused_and_leave_no_run(case: Case) -> None:
    torch.save({"model.layers.0.mlp.weight": torch.full((4, 6), torch.nan)}, case.family / "B" / "pytorch_model.bin")
    with pytest.raises(
        ModelError, match=r"^foundation_models\.B: .*/B holds numbers that are not finite, first in model"
    ):
        case.start()
    assert not case.run.exists()
    torch.save({"model.layers.0.mlp.weight": torch.ones(6, 4)}, case.family / "B" / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"^foundation_models\.B: .* differ in the shape of model\.layers"):
        case.start()
    torch.save({"other": torch.ones(6, 4)}, case.family / "base" / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"^foundation_models\.A: .* differ in their tensors: only .* has "):
        case.start()
    assert not case.run.exists()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("content", ["valid", "damaged"])
def test_a_conversion_of_weights_that_change_meanwhile_is_not_kept(content: str, when: str, case: Case) -> None:
    path = case.family / "B" / "pytorch_model.bin"
    original = path.read_bytes()

    class Changing(InlineExecutor):
        def submit(self, call: Call) -> None:
            if call.id == "convert B" and when == "before":
                self.change()
            super().submit(call)

        def wait(self, timeout: float) -> Outcome | None:
            converts = [call.id for call in self._calls] == ["convert B"]
            outcome = super().wait(timeout)
            if converts and when == "after":
                self.change()
            return outcome

        def change(self) -> None:
            times = path.stat()
            if content == "valid":
                torch.save({"model.layers.0.mlp.weight": torch.ones(4, 6)}, path)
            else:
                path.write_bytes(b"damaged")
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    with pytest.raises(InputsChangedError, match=rf"^foundation_models\.B: {path} has changed while it was prepared"):
        case.start(executors=Changing)
    assert not case.run.exists()
    assert len(case.converted()) == 1  # the base
    path.write_bytes(original)
    case.start()
    assert len(case.converted()) == 2


def test_a_check_rehearses_converted_models_once_they_are_cached(case: Case) -> None:
    config = load_config(case.config, ["allow_pickled_weights=true", "strategy.max_generations=1"])
    session = Session(FAKE, Silent(), executors=InlineExecutor)
    before = session.check(config, case.run, Fetch()).rehearsed
    assert before is not None
    assert (before.models, before.recipes) == (("A", "C"), ())  # the base is not converted
    assert before.skipped == (
        "an evaluation of B, which only the run prepares",
        "a merge by recipe slerp, whose models only the run prepares",
    )
    assert not case.run.parent.exists()
    case.start()
    after = session.check(config, case.run, Fetch()).rehearsed
    assert after is not None
    assert (after.models, after.recipes, after.skipped) == (("A", "B", "C"), ("slerp",), ())


def test_a_refused_conversion_leaves_no_folders(case: Case) -> None:
    (case.family / "base" / "pytorch_model.bin").unlink()
    write_model(case.family / "base", 1000)
    torch.save({"model.layers.0.mlp.weight": torch.full((4, 6), torch.nan)}, case.family / "B" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="holds numbers that are not finite"):
        case.start()
    assert not case.run.parent.exists()


def test_a_model_and_its_pickled_copy_are_refused(case: Case) -> None:
    weights = load_file(case.family / "A" / "model.safetensors")
    save_file(weights, case.family / "A" / "model.safetensors", metadata={"format": "pt"})
    case.pickle("B", of="A")
    with pytest.raises(ModelError, match=r"^foundation_models\.B: has the same files as A \("):
        case.start()
    case.pickle("C", of="A")
    with pytest.raises(ModelError, match=r"^foundation_models\.C: has the same files as B \("):
        case.start()


class _Interrupted(InlineExecutor):
    """An executor whose calls that convert get a signal while they run."""

    def wait(self, timeout: float) -> Outcome | None:
        if any(call.id.startswith("convert") for call in self._calls):
            raise KeyboardInterrupt
        return super().wait(timeout)


@pytest.mark.parametrize("existing", [[], ["runs"], ["runs", "runs/.converted", "runs/.converted/other"]], ids=str)
def test_an_interrupted_conversion_leaves_nothing(case: Case, existing: list[str]) -> None:
    root = case.run.parents[1]
    for name in existing:
        (root / name).mkdir()
    before = sorted(root.rglob("*"))
    config = load_config(case.config, ["allow_pickled_weights=true"])
    with pytest.raises(Interrupted):
        Session(FAKE, Silent(), executors=_Interrupted).run(config, case.run)
    assert sorted(root.rglob("*")) == before


def test_a_conversion_leaves_no_lock(case: Case) -> None:
    case.start()
    assert sorted(case.cache.iterdir()) == case.converted()
