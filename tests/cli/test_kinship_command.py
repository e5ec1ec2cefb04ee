"""`evolve kinship`: its table, its JSON and its errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from evolve.cli import measuring
from evolve.cli.display import Display
from evolve.engines.protocols import KinshipJob, KinshipResult, PairKinship
from evolve.run.executors import Done


class _Measured:
    """A fake executor with fixed results, in which rows of the embedding are left out."""

    def __init__(self, progress: Callable[..., None], device: str) -> None:
        self._progress = progress
        self._jobs: list[KinshipJob] = []

    def submit(self, call: Any) -> None:
        self._jobs.append(call.job)
        self._progress(call.id, "reading weights", 1, 2)

    def wait(self, timeout: float) -> Done:
        job = self._jobs[-1]
        left_out = (("model.embed_tokens.weight", 2, 0.0125),)
        pairs = [
            PairKinship(a, b, pcc=0.25 * (n + 1), cs=0.5, ed=2.0, parameters=80, left_out=left_out if n == 0 else ())
            for n, (a, b) in enumerate(job.pairs)
        ]
        return Done("kinship", KinshipResult(pairs=tuple(pairs), seconds=1.5))

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture
def models(fake_family: Path) -> Path:
    return fake_family.parent


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "LocalExecutor", _Measured)


@pytest.mark.usefixtures("measured")
def test_the_table_with_its_mean_and_the_rows_left_out(command, models):
    answer = command("kinship", "--base", models / "base", models / "A", models / "B", models / "C")

    assert answer.code == 0
    lines = [line.split() for line in answer.out.splitlines() if line.strip("─")]
    assert lines[:5] == [
        ["pcc", "cs", "ed"],
        ["A", "and", "B", "0.250000", "0.500000", "2.000000"],
        ["A", "and", "C", "0.500000", "0.500000", "2.000000"],
        ["B", "and", "C", "0.750000", "0.500000", "2.000000"],
        ["mean", "0.500000", "0.500000", "2.000000"],
    ]
    assert answer.out.endswith("\nA and B: left out 2 rows of model.embed_tokens.weight (1.250 % of the parameters)\n")


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("metric", ["pcc", "cs", "ed", "all"])
def test_json_of_the_requested_metrics(command, models, metric):
    answer = command("kinship", "--base", models / "base", models / "A", models / "B", "--metric", metric, "--json")

    data = json.loads(answer.out)
    metrics = ["pcc", "cs", "ed"] if metric == "all" else [metric]
    values = {"pcc": 0.25, "cs": 0.5, "ed": 2.0}
    (pair,) = data["pairs"]
    assert pair == {
        "a": "A",
        "b": "B",
        **{name: values[name] for name in metrics},
        "parameters": 80,
        "left_out": [{"tensor": "model.embed_tokens.weight", "rows": 2, "share": 0.0125}],
    }
    assert data["models"] == {"A": str(models / "A"), "B": str(models / "B")}
    assert data["mean"] == {name: values[name] for name in metrics}
    assert data["seconds"] == 1.5


@pytest.mark.usefixtures("measured")
def test_progress_is_not_mixed_into_the_json(command, models, monkeypatch):
    monkeypatch.setattr("evolve.cli.display._PLAIN_EVERY_S", 0.0)

    answer = command("kinship", "--base", models / "base", models / "A", models / "B", "--json")

    assert "kinship: reading weights, 1 of 2" in answer.err
    assert json.loads(answer.out)["pairs"]


@pytest.mark.usefixtures("measured")
def test_models_have_the_shortest_unique_labels(command, models):
    shutil.copytree(models / "A", models / "more" / "A")
    shutil.copytree(models / "A", models / "most" / "more" / "A")

    answer = command(
        *("kinship", "--json", "--base", models / "base", models / "A", f"{models}/more/A/"),
        *(models / "more" / ".." / "B", models / "most" / "more" / "A"),
    )

    data = json.loads(answer.out)
    own = models.name
    labels = [f"{own}/A", f"{own}/more/A", "B", "most/more/A"]
    assert [(pair["a"], pair["b"]) for pair in data["pairs"]] == list(combinations(labels, 2))
    folders = [models / "A", models / "more" / "A", models / "B", models / "most" / "more" / "A"]
    assert data["models"] == dict(zip(labels, map(str, folders), strict=True))


@pytest.mark.parametrize(
    ("models", "labels"),
    [
        (["org/a", "org/b"], ["a", "b"]),
        (["org/a", "other/a"], ["org/a", "other/a"]),
        (["org/a@one", "org/a@two"], ["a@one", "a@two"]),
        (["a", "org/a"], ["a", "org/a"]),
        (["/no/such/x/a", "/no/such/y/a", "/no/such/a"], ["x/a", "y/a", "such/a"]),
        (["/a", "/b/a"], ["/a", "b/a"]),
    ],
)
def test_labels_of_hub_ids_and_paths(models, labels):
    assert measuring._labels(models) == labels


@pytest.mark.usefixtures("no_work")
def test_wrong_models(refused, models, tmp_path):
    base, a, b = models / "base", models / "A", models / "B"
    refused("kinship", "--base", base, a, words=(f"{a}: ", "at least two"))
    refused("kinship", "--base", base, a, b, "--device", "gpu", words=("--device gpu: ", "auto, cpu, cuda"))
    refused("kinship", "--base", base, a, b, "--metric", "euclid", words=("--metric euclid: ", "pcc, cs, ed or all"))
    refused("kinship", "--base", base, a, f"{b}/../A", words=(f"{a}: ", "given twice", "once"))
    refused("kinship", "--base", base, a, models / "no", words=(f"{models}/no", "no such folder", "give the folder"))
    refused("kinship", "--base", models / "no", a, b, words=(f"{models}/no", "no such folder", "give the folder"))
    refused("kinship", "--base", base, a, base, words=(f"{base}: ", "is the base model itself", "leave it out"))
    (b / "config.json").write_text('{"model_type": "llama"}')
    refused("kinship", "--base", base, a, b, words=(f"{base} and {b} differ in model_type", "tuned from the base"))
    (b / "model.safetensors").unlink()
    refused("kinship", "--base", base, a, b, words=(f"{b} has no weights", "download"))


def test_options_are_checked(command, models):
    base, a, b = models / "base", models / "A", models / "B"
    assert command("kinship", a, b).code == 2
    assert command("kinship", "--base", base).code == 2


def test_progress_goes_to_standard_error(monkeypatch, models, measured, command):
    asked: list[bool] = []

    def display(*, stderr: bool = False) -> Display:
        asked.append(stderr)
        return real(stderr=stderr)

    real = measuring.display
    monkeypatch.setattr(measuring, "display", display)
    command("kinship", "--base", models / "base", models / "A", models / "B")
    assert asked == [True]
