"""Values of items in the run folder, and answers that scores of other items share."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import families
import pandas
import pyarrow as pa
import pytest
import yaml
from drive import Drivers
from executors import InlineExecutor
from fakes import ITEMS, write_family
from pyarrow import parquet

from evolve.config import Config, TaskConfig, load_config
from evolve.engines import REAL
from evolve.engines.protocols import EvaluateResult, TaskScore
from evolve.errors import RunFolderError
from evolve.run.items import join_items, read_items
from evolve.run.observer import Silent
from evolve.run.session import Session
from evolve.run.store import ScoreRecord, ScoreStore
from evolve.run.tasks import score_key
from runs import calls_begun, events, forget_checksum
from tests.engines.evaluation import _world

ALPHA = TaskConfig(task="alpha")
LIMIT = ["evaluation.limit=5"]

# ------------------------------------------------------------------------------------------------------ one file


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, drivers: Drivers) -> tuple[Path, Path]:
    """A finished run, and one beside it that has all scores from the store."""
    folder = tmp_path_factory.mktemp("items")
    config = write_family(folder / "family")
    runs = folder / "runs" / "one", folder / "runs" / "two"
    tally = folder / "tally"
    assert drivers(runs[0], config).code == 0
    assert drivers(runs[1], config, EVOLVE_FAKE_TALLY=tally).code == 0
    assert not any(call.startswith("evaluate") for call in calls_begun(tally))
    return runs


@pytest.mark.parametrize("number", [0, 1], ids=["scored", "reused"])
def test_one_line_reads_the_values_of_all_tasks_and_their_means_are_the_scores(
    finished: tuple[Path, Path], number: int
) -> None:
    run = finished[number]
    evaluated = {event["model"]: event["scores"] for event in events(run, "model_evaluated")}
    assert len(evaluated) > 3
    for model, scores in evaluated.items():
        frame = pandas.read_parquet(run / "evals" / model / "items.parquet")
        assert list(frame) == ["task", "item", "value", "doc_hash"]
        assert frame.groupby("task", sort=False)["value"].mean().to_dict() == {
            task: score["value"] for task, score in scores.items()
        }
        values = read_items(run / "evals" / model / "items.parquet")
        assert {task: list(found) for task, found in values.items()} == {task: list(range(ITEMS)) for task in scores}
        assert {task: sum(found.values()) / ITEMS for task, found in values.items()} == {
            task: score["value"] for task, score in scores.items()
        }


def _lists(path: Path) -> None:
    columns = {"task": ["a"], "item": [[1]], "value": [0.5], "doc_hash": ["b"]}
    parquet.write_table(pa.table(columns), path)


def _no_number(path: Path) -> None:
    parquet.write_table(pa.table({"task": ["a"], "item": [1], "value": [math.nan], "doc_hash": ["b"]}), path)


@pytest.mark.parametrize("write", [os.mkfifo, Path.mkdir, _lists, _no_number])
def test_files_that_hold_no_values_are_refused(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "items.parquet")
    with pytest.raises(
        RunFolderError, match=r"items\.parquet: .*; delete the folder .*, and the model is scored again"
    ):
        read_items(tmp_path / "items.parquet")


def test_damaged_values_in_the_store_are_noticed_and_the_model_is_scored_again(
    tmp_path: Path, drivers: Drivers
) -> None:
    config = write_family(tmp_path / "family")
    assert drivers(tmp_path / "runs" / "one", config).code == 0
    for file in (tmp_path / "runs" / ".scores").glob("*/*/items.parquet"):
        file.write_bytes(file.read_bytes()[:-5])
    assert drivers(tmp_path / "runs" / "two", config).code == 0
    assert not any(event["reused"] for event in events(tmp_path / "runs" / "two", "model_evaluated"))
    assert "it was changed after it was written" in (tmp_path / "runs" / "two" / "run.log").read_text()
    values = [read_items(tmp_path / "runs" / name / "evals" / "model-1-1" / "items.parquet") for name in ("one", "two")]
    assert values[0] == values[1]


def test_damaged_values_beside_a_record_without_a_checksum_are_left_out(tmp_path: Path, drivers: Drivers) -> None:
    config = write_family(tmp_path / "family")
    assert drivers(tmp_path / "runs" / "one", config).code == 0
    for file in (tmp_path / "runs" / ".scores").glob("*/*/items.parquet"):
        file.write_bytes(file.read_bytes()[:-5])
        forget_checksum(file.parent)
    assert drivers(tmp_path / "runs" / "two", config).code == 0
    assert all(event["reused"] for event in events(tmp_path / "runs" / "two", "model_evaluated"))
    assert not list((tmp_path / "runs" / "two" / "evals").glob("*/items.parquet"))
    assert "items.parquet: its values of items are left out" in (tmp_path / "runs" / "two" / "run.log").read_text()


def _values(folder: Path, task: str, **columns: list[object]) -> None:
    (folder / task).mkdir(parents=True)
    table = {"task": [task], "item": [3], "value": [0.5], "doc_hash": ["a"], **columns}
    parquet.write_table(pa.table(table), folder / task / "items.parquet")


def test_tasks_without_values_have_no_rows(tmp_path: Path) -> None:
    (tmp_path / "perplexity").mkdir()
    join_items(tmp_path, ["perplexity"])
    assert not (tmp_path / "items.parquet").exists()
    for task in ("beta", "alpha"):
        _values(tmp_path, task)
    join_items(tmp_path, ["alpha", "perplexity", "beta"])
    assert read_items(tmp_path / "items.parquet") == {"alpha": {3: 0.5}, "beta": {3: 0.5}}
    assert list(read_items(tmp_path / "items.parquet")) == ["alpha", "beta"]


@pytest.mark.parametrize(
    "columns", [{"value": ["a"]}, {"item": [None]}, {"value": [None]}, {"more": [1]}], ids=lambda each: next(iter(each))
)
def test_a_file_of_other_columns_is_refused_with_its_name(tmp_path: Path, columns: dict[str, list[object]]) -> None:
    _values(tmp_path, "alpha", **columns)
    with pytest.raises(RunFolderError, match=r"alpha/items\.parquet: the values of items cannot be read"):
        read_items(tmp_path / "alpha" / "items.parquet")
    with pytest.raises(RunFolderError, match="No such file"):
        read_items(tmp_path / "items.parquet")


def test_a_kill_while_scores_are_published_leaves_no_half_file(tmp_path: Path, drivers: Drivers) -> None:
    config, run = write_family(tmp_path / "family"), tmp_path / "runs" / "run"
    assert drivers(run, config, EVOLVE_FAULT="publish.after_fsync:1").code == -9
    assert not list((run / "evals").rglob("items.parquet"))
    assert drivers(run, config).code == 0
    assert {path.parent.name for path in (run / "evals").glob("*/items.parquet")} == {
        event["model"] for event in events(run, "model_evaluated")
    }


# ------------------------------------------------------------------------------------------------------ keys, store


def _key(config: Config, **options: object) -> tuple[str, str]:
    settings, _, selection = score_key(
        "identity", config, config.evaluation.tasks[0], versions={"lm_eval": "1"}, data={}, **options
    ).partition("/")
    return settings, selection


def test_the_key_of_a_score_is_its_settings_and_its_selection(tmp_path: Path) -> None:
    config = load_config(write_family(tmp_path))
    (settings, everything), (limited, five) = _key(config), _key(load_config(tmp_path / "config.yaml", LIMIT))
    assert settings == limited
    assert (everything, five) == ("all", "first-5")
    ids = {"alpha": (1, 4), "other": ()}
    assert _key(config, items=ids)[0] == settings
    assert re.fullmatch("items-[0-9a-f]{64}", _key(config, items=ids)[1])
    assert _key(config, items=ids) == _key(config, items={"alpha": [1, 4]})
    assert _key(config, items=ids) != _key(config, items={"alpha": (1, 5)})


@pytest.fixture
def store(tmp_path: Path) -> ScoreStore:
    return ScoreStore(tmp_path / ".scores", tmp_path / "run")


def _keep(store: ScoreStore, key: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("results.json", "samples_alpha.jsonl", "answers.parquet"):
        (folder / name).write_text("{}")
    score = TaskScore("acc,none", 0.5, None, 9)
    ScoreRecord.of(key, "alpha", EvaluateResult({"alpha": score}, seconds=2.0, batch_size=4)).write(folder)
    store.keep(key, ALPHA, folder)


def test_answers_of_other_selections_of_the_same_settings_are_found(store: ScoreStore, tmp_path: Path) -> None:
    assert store.answers("a/all", ALPHA) == ()
    for number, key in enumerate(("a/first-5", "a/items-1", "b/all")):
        _keep(store, key, tmp_path / str(number))
    assert store.fetch("a/all", ALPHA, tmp_path / "target") is None
    assert store.answers("a/all", ALPHA) == tuple(
        store.root / "a" / selection / "answers.parquet" for selection in ("first-5", "items-1")
    )
    assert ScoreRecord.answers(tmp_path / "0", "a/all", ALPHA) == tmp_path / "0" / "answers.parquet"
    assert ScoreRecord.answers(tmp_path / "0", "b/all", ALPHA) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "score.json").write_text("{"),
        lambda folder: (folder / "score.json").unlink(),
        lambda folder: (folder / "answers.parquet").unlink(),
        lambda folder: (folder / "more").symlink_to("/dev/zero"),
    ],
    ids=["record", "no-record", "no-answers", "link"],
)
def test_answers_without_a_good_record_are_not_used(
    store: ScoreStore, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    _keep(store, "a/first-5", tmp_path / "one")
    spoil(store.root / "a" / "first-5")
    assert store.answers("a/all", ALPHA) == ()


# ------------------------------------------------------------------------------------------------------ real engines


@pytest.fixture
def real(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Callable[[str, int], list[tuple[str, int, int]]]:
    """Run with real engines on the first items; return the foundations' lists of requests, and how many were known.

    The child has other weights where the other foundation is the better one.
    """
    base = families.save(tmp_path / "base", seed=1)
    for number, name in enumerate("AB", start=2):
        families.save(tmp_path / name, seed=number, near=base)
    families.winogrande(tmp_path / "winogrande", 60)
    _world.write_lines(tmp_path / "gsm8k" / "train.jsonl", _world.gsm8k_items(4, 3))
    _world.write_lines(tmp_path / "gsm8k" / "test.jsonl", _world.gsm8k_items(60, 4))
    config = {
        "name": "items",
        "base_model": "./base",
        "foundation_models": {name: f"./{name}" for name in "AB"},
        "strategy": {"max_generations": 1},
        "merge": {"recipe": "slerp", "dtype": "float32"},
        "evaluation": {
            "tasks": [
                {"task": "winogrande", "num_fewshot": 1},
                {
                    "task": "gsm8k",
                    "metric": "exact_match,flexible-extract",
                    "num_fewshot": 1,
                    "generation_kwargs": {"max_gen_toks": 8},
                },
            ],
            "datasets": {"winogrande": "./winogrande", "gsm8k": "./gsm8k"},
            "model_args": {"dtype": "float32"},
            "batch_size": 4,
        },
        "device": "cpu",
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))

    def run(name: str, limit: int) -> list[tuple[str, int, int]]:
        settings = load_config(tmp_path / "config.yaml", [f"evaluation.limit={limit}"])
        caplog.clear()
        with caplog.at_level("INFO", "evolve.engines.evaluation"):
            Session(REAL, Silent(), executors=InlineExecutor).run(settings, tmp_path / name)
        found = re.findall(r"^(\w+): (\d+) requests, (\d+) of them cached", "\n".join(caplog.messages), re.MULTILINE)
        lists = [(method, int(requests), int(known)) for method, requests, known in found]
        rehearsals = [("loglikelihood", 4, 0), ("generate_until", 2, 0)] * 2
        assert lists[:4] == rehearsals
        return lists[4:8]

    return run


def _scores(run: Path) -> dict[str, object]:
    return {event["model"]: event["scores"] for event in events(run, "model_evaluated")}


def _prompts(run: Path) -> dict[str, list[object]]:
    files = sorted(run.glob("evals/*/*/samples_*.jsonl"))
    rows = {str(file.relative_to(run)): map(json.loads, file.read_text().splitlines()) for file in files}
    return {name: [(row["doc_id"], row["arguments"]) for row in found] for name, found in rows.items()}


def test_a_larger_limit_pays_for_the_new_items_only(
    real: Callable[[str, int], list[tuple[str, int, int]]], tmp_path: Path
) -> None:
    assert real("runs/twenty", 20) == [("loglikelihood", 40, 0), ("generate_until", 20, 0)] * 2
    assert real("runs/fifty", 50) == [("loglikelihood", 100, 40), ("generate_until", 50, 20)] * 2
    assert real("fresh/fifty", 50) == [("loglikelihood", 100, 0), ("generate_until", 50, 0)] * 2
    ours, fresh = tmp_path / "runs" / "fifty", tmp_path / "fresh" / "fifty"
    assert _scores(ours) == _scores(fresh)
    assert len(_scores(ours)) == 3
    assert _prompts(ours) == _prompts(fresh)
    for model in _scores(fresh):
        mine, theirs = (run / "evals" / model / "items.parquet" for run in (ours, fresh))
        assert read_items(mine) == read_items(theirs)

    assert real("runs/again", 20) == []
    assert _scores(tmp_path / "runs" / "again") == _scores(tmp_path / "runs" / "twenty")
    assert real("runs/ten", 10) == [("loglikelihood", 20, 20), ("generate_until", 10, 10)] * 2
    store = tmp_path / "runs" / ".scores"
    assert sorted({path.parent.name for path in store.glob("*/*/score.json")}) == ["first-10", "first-20", "first-50"]
