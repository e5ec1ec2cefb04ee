"""`evolve check`: findings, missing models, problems, warnings and the last line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from executors import InlineExecutor
from fakes import FAKE

from evolve.cli import driving
from evolve.engines.protocols import FilterMatch, PlanMergesJob, Report
from evolve.errors import ModelError
from evolve.run.inputs import locate
from evolve.run.session import Session
from tests.conftest import write_config

Change = Callable[..., None]


@pytest.fixture
def change(fake_family: Path) -> Change:
    def change(**sections: Any) -> None:
        raw = yaml.safe_load(fake_family.read_text())
        fake_family.write_text(yaml.safe_dump(raw | sections, sort_keys=False))

    return change


@pytest.fixture
def check(command, no_work, fake_family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that runs `evolve check` with fake engines on the fake family."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return partial(command, "check", fake_family)


def test_it_ends_with_the_command_to_type(check, fake_family, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    answer = check()
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[-1] == f"Ready: evolve run {fake_family}"
    assert "warning" not in answer.out
    assert "problem" not in answer.out
    assert sorted(tmp_path.rglob("*")) == before


def test_scores_that_cannot_be_shared_are_a_warning(check, change):
    tasks = [{"task": "alpha"}]
    change(evaluation={"tasks": tasks, "model_args": {"tokenizer": "owner/tokenizer"}})
    (line,) = [line for line in check().out.splitlines() if "not shared" in line]
    start = "warning: scores of alpha are not shared: evaluation.model_args.tokenizer = owner/tokenizer: "
    assert line.startswith(start)


def test_all_missing_models_are_errors_of_their_keys(check, change, fake_family):
    change(foundation_models={"A": "owner/a", "B": "./B", "C": "./nowhere", "D": "owner/d"})
    answer = check()
    assert answer.code == 2
    keys = [line.removeprefix("evolve: ").partition(" = ")[0] for line in answer.err.splitlines()]
    assert keys == [f"{fake_family}: foundation_models.{name}" for name in "ACD"]


def test_offline_lists_models_that_are_not_cached(check, change, monkeypatch):
    monkeypatch.setattr(locate, "missing_bytes", lambda *_, **__: pytest.fail("the Hub was asked"))
    change(foundation_models={"A": "owner/a", "B": "./B", "C": "./C"})
    answer = check("--offline")
    assert answer.code == 0, answer.err
    (missing,) = [line for line in answer.out.splitlines() if line.startswith("not checked: owner/a")]
    assert "not in the local" in missing
    assert answer.out.splitlines()[-1].startswith("Nothing else is wrong, but the run needs the models that cannot be ")


def test_models_of_the_hub_are_measured_and_not_fetched(check, change, monkeypatch, fake_family):
    sizes = {"owner/a": 3_000_000_000, "owner/lora": 20_000_000}
    monkeypatch.setattr(locate, "missing_bytes", lambda source, **_: sizes[source])
    change(
        foundation_models={
            "A": "owner/a",
            "B": "./B",
            "C": {"model": str(fake_family.parent / "C"), "adapter": "owner/lora"},
        }
    )
    answer = check()
    assert answer.code == 0, answer.err
    assert "A: owner/a is not in the local Hub cache; the run downloads 3.0 GB" in answer.out
    assert "with the adapter owner/lora is not in the local Hub cache; the run downloads 20.0 MB" in answer.out
    assert answer.out.splitlines()[-1] == f"Ready: evolve run {fake_family}"


def test_a_model_that_the_hub_does_not_know_is_an_error(check, change, monkeypatch, fake_family):
    def unknown(source: str, **_: object) -> int:
        raise ModelError(f"{source}: the Hub has no such model; check the spelling")

    monkeypatch.setattr(locate, "missing_bytes", unknown)
    change(foundation_models={"A": "owner/a", "B": "./B"})
    answer = check()
    assert answer.code == 2
    assert f"{fake_family}: foundation_models.A = owner/a: the Hub has no such model" in answer.err


def test_download_fetches_and_excludes_offline(check, change, monkeypatch, fake_family):
    asked: list[bool] = []
    resolve = locate.resolve

    def fetching(source: str, *, pickled: bool = False, download: bool = True) -> Any:
        asked.append(download)
        return resolve(str(fake_family.parent / "A") if source == "owner/a" else source, pickled=pickled)

    monkeypatch.setattr(locate, "resolve", fetching)
    change(foundation_models={"A": "owner/a", "B": "./B"})
    answer = check("--download")
    assert answer.code == 0, answer.err
    assert all(asked)
    answer = check("--download", "--offline")
    assert answer.code == 2
    assert "exclude each other" in answer.err


@pytest.mark.parametrize(
    ("free", "code", "expected"),
    [
        (10**9, 0, "Ready: "),
        (500, 0, "The run can start, and be resumed after the problem is solved: evolve run "),
        (10, 1, "a child needs 48 B, and 10 B are free; make room"),
    ],
)
def test_a_run_that_does_not_fit_the_disk_is_a_problem(check, free, code, expected, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    answer = check()
    assert answer.code == code
    assert expected in (answer.out.splitlines()[-1] if code == 0 else answer.err)
    assert ("problem: a run of all generations does not fit the disk" in answer.out) == (free == 500)


def test_filters_without_effect_and_differing_settings_are_warnings(check, fake_family, monkeypatch):
    def plan_merges(job: PlanMergesJob, report: Report) -> Mapping[str, tuple[FilterMatch, ...]]:
        return dict.fromkeys(job.recipes, (FilterMatch("t", "attn", 4), FilterMatch("t", "mlp", 0)))

    monkeypatch.setattr(driving, "REAL", replace(FAKE, plan_merges=plan_merges))
    monkeypatch.setattr(driving, "Session", partial(Session, executors=InlineExecutor))
    for name, theta in (("base", 1e4), ("A", 1e4), ("B", 1e6), ("C", 1e4)):
        path = fake_family.parent / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"rope_theta": theta}))
    answer = check()
    assert answer.code == 0, answer.err
    assert "tensors matched by its filters: attn 4, mlp 0" in answer.out
    assert "warning: recipe slerp: the filter 'mlp' of t matches no tensor of these models" in answer.out
    assert "warning: rope_theta differs (" in answer.out
    assert "B 1000000.0" in answer.out


def test_a_first_estimate_of_the_time(evolve, family, tmp_path):
    config = write_config(tmp_path / "timed.yaml", family)
    done = evolve("check", config, "--time", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("time: ")]
    assert "coreference scored 36 documents; loading a model took " in lines[0]
    assert "an evaluation, at most " in lines[1]
    assert "for 14 evaluations" in lines[1]
    assert done.stdout.splitlines()[-1] == f"Ready: evolve run {config}"
    assert [path.name for path in tmp_path.iterdir()] == ["timed.yaml"]
