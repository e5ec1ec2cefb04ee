"""Runs of models with pickled weights, with fake engines: what is made, made again, shared and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from executors import InlineExecutor
from fakes import FAKE, write_family
from safetensors.torch import load_file, save_file

from evolve.config import load_config
from evolve.errors import ModelError
from evolve.run.folder import RunFolder
from evolve.run.observer import Silent
from evolve.run.session import Session


class Case:
    """A family whose base and foundation B are pickled."""

    def __init__(self, root: Path) -> None:
        self.config, self.run = write_family(root / "family"), root / "runs" / "run"
        self.family, self.cache = root / "family", root / "runs" / ".converted"
        for name in ("base", "B"):
            self.pickle(name)

    def pickle(self, name: str, of: str | None = None) -> None:
        weights = load_file(self.family / (of or name) / "model.safetensors")
        (self.family / name / "model.safetensors").unlink(missing_ok=True)
        torch.save(weights, self.family / name / "pytorch_model.bin")

    def go(self, run: Path | None = None) -> dict[str, str]:
        """Run; gives the folders of base and foundations."""
        config = load_config(self.config, ["allow_pickled_weights=true", "strategy.max_generations=1"])
        Session(FAKE, Silent(), executors=InlineExecutor).run(config, run or self.run)
        event = self.started(run or self.run)
        folder = RunFolder(run or self.run)
        return {entry["name"]: str(folder.locate(entry["path"])) for entry in [event["base"], *event["foundations"]]}

    @staticmethod
    def started(run: Path) -> dict:
        return json.loads((run / "journal.jsonl").read_text().splitlines()[0])["event"]

    def made(self) -> list[Path]:
        return sorted(self.cache.glob("[!.]*"))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_runs_beside_one_another_share_what_is_converted(case: Case) -> None:
    paths = case.go()
    assert {paths["base_model"], paths["B"]} == {str(path) for path in case.made()}
    assert paths["A"] == str(case.family / "A")
    assert case.started(case.run)["base"]["source"] == str(case.family / "base")
    before = {path: path.stat().st_mtime_ns for folder in case.made() for path in folder.iterdir()}
    assert case.go(case.run.with_name("again")) == paths
    assert {path: path.stat().st_mtime_ns for folder in case.made() for path in folder.iterdir()} == before


def test_what_is_gone_or_cut_is_made_again(case: Case) -> None:
    case.go()
    first, second = case.made()
    whole = (second / "model.safetensors").read_bytes()
    for _ in range(2):
        shutil.rmtree(first)
        (second / "model.safetensors").write_bytes(whole[:-1])
        lines = (case.run / "journal.jsonl").read_bytes().splitlines(keepends=True)
        (case.run / "journal.jsonl").write_bytes(b"".join(lines[:3]))
        Session(FAKE, Silent(), executors=InlineExecutor).resume(case.run)
        assert case.made() == [first, second]
        assert (second / "model.safetensors").read_bytes() == whole


def test_the_originals_may_go_once_they_are_converted(case: Case) -> None:
    case.go()
    shutil.rmtree(case.family / "B")
    lines = (case.run / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (case.run / "journal.jsonl").write_bytes(b"".join(lines[:3]))
    assert Session(FAKE, Silent(), executors=InlineExecutor).resume(case.run).worked
    (case.run / "journal.jsonl").write_bytes(b"".join(lines[:3]))
    shutil.rmtree(case.cache)
    with pytest.raises(ModelError, match=r"the converted copy of B is missing, and .*/B: there is no such folder"):
        Session(FAKE, Silent(), executors=InlineExecutor).resume(case.run)


def test_weights_that_cannot_be_converted_leave_no_run(case: Case) -> None:
    torch.save({"model.layers.0.mlp.weight": torch.full((4, 6), torch.nan)}, case.family / "B" / "pytorch_model.bin")
    with pytest.raises(
        ModelError, match=r"^foundation_models\.B: .*/B holds numbers that are not finite, first in model"
    ):
        case.go()
    assert not case.run.exists()
    torch.save({"model.layers.0.mlp.weight": torch.ones(6, 4)}, case.family / "B" / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"^foundation_models\.B: .* differ in the shape of model\.layers"):
        case.go()
    torch.save({"other": torch.ones(6, 4)}, case.family / "base" / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"^foundation_models\.A: .* differ in their tensors: only .* has "):
        case.go()
    assert not case.run.exists()


def test_a_model_and_its_pickled_twin_are_refused(case: Case) -> None:
    weights = load_file(case.family / "A" / "model.safetensors")
    save_file(weights, case.family / "A" / "model.safetensors", metadata={"format": "pt"})
    case.pickle("B", of="A")
    with pytest.raises(ModelError, match=r"^foundation_models\.B: has the same files as A \("):
        case.go()
    case.pickle("C", of="A")
    with pytest.raises(ModelError, match=r"^foundation_models\.C: has the same files as B \("):
        case.go()
