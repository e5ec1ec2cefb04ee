"""Everything that is read is in the key of a score: a new run after a change scores again, a resumed one is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import yaml
from executors import InlineExecutor
from fakes import FAKE, write_family, write_model

from evolve.config import load_config
from evolve.engines.protocols import (
    Engines,
    EvaluateJob,
    EvaluateResult,
    InspectTasksJob,
    Report,
    TaskFacts,
    TaskScore,
)
from evolve.errors import ConfigError, EvaluationError, InputError, RecipeError, TaskError
from evolve.lineage import RunStarted
from evolve.run.inputs import Fetch
from evolve.run.observer import Silent
from evolve.run.session import Finished, Session
from runs import events, forge
from tests.support.hub import HubCache

COMMIT = "c" * 40
LIMITS = ["strategy.max_generations=1"]


class Noting(Silent):
    """An observer that keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, words: str) -> None:
        self.notes.append(words)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_family(tmp_path / "family", ("A", "B"))


def engines(**facts: Any) -> Engines:
    """Return fake engines whose check gives these facts of task alpha."""

    def inspect(job: InspectTasksJob, report: Report) -> Mapping[str, TaskFacts]:
        found = FAKE.inspect_tasks(job, report)
        return {**found, "alpha": replace(found["alpha"], **facts)}

    return replace(FAKE, inspect_tasks=inspect)


def session(observer: Silent | None = None, **facts: Any) -> Session:
    return Session(engines(**facts), observer or Silent(), executors=InlineExecutor)


def begin(config: Path, run: Path, *overrides: str, **facts: Any) -> Finished:
    return session(**facts).run(load_config(config, [*LIMITS, *overrides]), run)


def started(run: Path) -> RunStarted:
    return RunStarted.model_validate(events(run, "run_started")[0])


def reused(run: Path) -> list[set[str]]:
    """Return the tasks whose scores were copied, for each model."""
    return [set(event["reused_tasks"]) for event in events(run, "model_evaluated")]


def edit(config: Path, **sections: Any) -> None:
    raw = yaml.safe_load(config.read_text())
    for name, entries in sections.items():
        raw[name] = {**raw.get(name, {}), **entries}
    config.write_text(yaml.safe_dump(raw, sort_keys=False))


def test_a_changed_file_that_a_task_reads_gives_a_new_score(config: Path, tmp_path: Path) -> None:
    runs, outside = tmp_path / "runs", tmp_path / "outside.yaml"
    outside.write_text("1")
    begin(config, runs / "one", reads=(outside,))
    begin(config, runs / "two", reads=(outside,))
    assert reused(runs / "two") == [{"alpha", "beta"}] * 3
    outside.write_text("2")
    begin(config, runs / "three", reads=(outside,))
    assert reused(runs / "three") == [{"beta"}] * 3
    name = f"alpha/reads/{outside}"
    assert started(runs / "one").reads == {name: str(outside)}
    assert started(runs / "one").data[name] != started(runs / "three").data[name]


def test_files_of_the_configured_folders_are_recorded_once(config: Path, tmp_path: Path) -> None:
    data, tasks = tmp_path / "family" / "data", tmp_path / "family" / "tasks"
    for folder in (data, tasks):
        folder.mkdir()
    (data / "test.jsonl").write_text("{}")
    (data / "words.txt").write_text("x")
    (tasks / "alpha.yaml").write_text("x")
    edit(config, evaluation={"datasets": {"alpha": "data"}, "task_dirs": ["tasks"]})
    (tmp_path / "link").symlink_to(tasks)
    read = (data / "test.jsonl", data / "words.txt", tasks / "alpha.yaml", tmp_path / "link" / "alpha.yaml")
    begin(config, tmp_path / "runs" / "run", reads=read)
    (name,) = started(tmp_path / "runs" / "run").reads
    assert name == f"alpha/reads/{data / 'words.txt'}"


def test_a_file_in_the_folder_of_the_runs_has_a_portable_name(config: Path, tmp_path: Path) -> None:
    shared = tmp_path / "runs" / "shared.txt"
    shared.parent.mkdir()
    shared.write_text("x")
    begin(config, tmp_path / "runs" / "one", reads=(shared,))
    assert started(tmp_path / "runs" / "one").reads == {"alpha/reads/../shared.txt": "../shared.txt"}
    moved = tmp_path / "moved"
    (tmp_path / "runs").rename(moved)
    settings = load_config(config, ["strategy.max_generations=2"])
    assert session().run(settings, moved / "one").worked
    (moved / "shared.txt").write_text("y")
    with pytest.raises(ConfigError, match=r"shared\.txt \(alpha/reads/\.\./shared\.txt\) has changed"):
        session().run(load_config(config, ["strategy.max_generations=3"]), moved / "one")


def test_the_revision_of_hub_data_is_in_the_key(config: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    begin(config, runs / "one", revision=COMMIT)
    begin(config, runs / "two", revision=COMMIT)
    begin(config, runs / "three", revision="d" * 40)
    assert reused(runs / "two") == [{"alpha", "beta"}] * 3
    assert reused(runs / "three") == [{"beta"}] * 3
    assert session().resume(runs / "one").worked is False


def test_an_evaluation_gets_the_recorded_revision(config: Path, tmp_path: Path) -> None:
    seen = []

    def evaluate(job: EvaluateJob, report: Report, device: str = "auto") -> EvaluateResult:
        seen.append({spec.task: spec.revision for spec in job.tasks})
        return FAKE.evaluate(job, report, device)

    known = replace(engines(revision=COMMIT), evaluate=evaluate)
    Session(known, Silent(), executors=InlineExecutor).run(load_config(config, LIMITS), tmp_path / "runs" / "run")
    assert seen == [{"alpha": COMMIT, "beta": None}] * 3


def test_scores_that_cannot_be_identified_are_not_shared(config: Path, tmp_path: Path) -> None:
    runs, observer = tmp_path / "runs", Noting()
    for name in ("one", "two"):
        settings = load_config(config, LIMITS)
        session(observer, unidentified="its data come from https://x/y").run(settings, runs / name)
    assert reused(runs / "two") == [{"beta"}] * 3
    assert len(list((runs / ".scores").glob("[!.]*"))) == 3
    said = "scores of alpha are not shared with other runs: its data come from https://x/y"
    assert [note for note in observer.notes if "not shared" in note] == [said, said]
    findings = session(unidentified="its data come from https://x/y").check(
        load_config(config), tmp_path / "check", Fetch()
    )
    assert findings.unshared == {"alpha": "its data come from https://x/y"}
    begin(config, runs / "three")
    assert reused(runs / "three") == [{"beta"}] * 3


# ------------------------------------------------------------------------------------------------------ model arguments


def test_files_of_model_arguments_are_compared_by_content(config: Path, tmp_path: Path) -> None:
    runs, tokenizer = tmp_path / "runs", tmp_path / "family" / "tok"
    (tokenizer / "sub").mkdir(parents=True)
    (tokenizer / "tokenizer.json").write_text("1")
    (tokenizer / "sub" / "more.bin").write_text("1")
    (tokenizer / "README.md").write_text("1")
    edit(config, evaluation={"model_args": {"tokenizer": "tok", "more": [{"file": "./tok/tokenizer.json"}]}})
    begin(config, runs / "one")
    names = {name for name in started(runs / "one").data if name.startswith("model_args.")}
    folder = {"model_args.tokenizer/tokenizer.json", "model_args.tokenizer/sub/more.bin"}
    assert names == {*folder, "model_args.more.0.file/tokenizer.json"}
    shutil.copytree(tokenizer, tmp_path / "family" / "copy")
    edit(config, evaluation={"model_args": {"tokenizer": "copy", "more": [{"file": "./copy/tokenizer.json"}]}})
    begin(config, runs / "two")
    assert reused(runs / "two") == [{"alpha", "beta"}] * 3
    (tmp_path / "family" / "copy" / "sub" / "more.bin").write_text("2")
    begin(config, runs / "three")
    assert reused(runs / "three") == [set()] * 3
    with pytest.raises(ConfigError, match=r"copy/sub/more\.bin \(model_args\.tokenizer/sub/more\.bin\) has changed"):
        session().run(load_config(config, ["strategy.max_generations=2"]), runs / "two")


def test_a_scratch_folder_of_the_engine_is_no_input(config: Path, tmp_path: Path) -> None:
    edit(config, evaluation={"model_args": {"offload_folder": str(tmp_path)}})
    begin(config, tmp_path / "runs" / "run")
    assert not started(tmp_path / "runs" / "run").data


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("/nowhere/tok", r"evaluation\.model_args\.tokenizer = /nowhere/tok: there is no such file"),
        ("tok", r"evaluation\.model_args\.tokenizer = tok: is not beside the configuration"),
    ],
)
def test_a_path_that_lm_eval_would_not_find(
    value: str, message: str, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere" / "tok").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    edit(config, evaluation={"model_args": {"tokenizer": value}})
    with pytest.raises(ConfigError, match=message):
        begin(config, tmp_path / "runs" / "run")


def test_a_tokenizer_of_the_hub_is_identified_by_its_cached_files(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, runs, tokenizer = [], tmp_path / "runs", tmp_path / "tok"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text("1")
    hub = HubCache(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub.root))
    snapshot = hub.add("org/tok", tokenizer, COMMIT, "main")
    edit(config, evaluation={"model_args": {"tokenizer": "org/tok"}})

    def evaluate(job: EvaluateJob, report: Report, device: str = "auto") -> EvaluateResult:
        seen.append(job.model_args["tokenizer"])
        return FAKE.evaluate(job, report, device)

    one = Session(replace(FAKE, evaluate=evaluate), Silent(), executors=InlineExecutor)
    one.run(load_config(config, LIMITS), runs / "one")
    assert started(runs / "one").reads == {"model_args.tokenizer/tokenizer.json": str(snapshot / "tokenizer.json")}
    assert seen == [str(snapshot)] * 3
    begin(config, runs / "two")
    assert reused(runs / "two") == [{"alpha", "beta"}] * 3
    (tokenizer / "tokenizer.json").write_text("2")
    hub.add("org/tok", tokenizer, "d" * 40, "main")
    begin(config, runs / "three")
    assert reused(runs / "three") == [set()] * 3
    assert session().run(load_config(config, ["strategy.max_generations=2"]), runs / "one").worked


def test_a_tokenizer_of_the_hub_that_is_not_cached(config: Path, tmp_path: Path) -> None:
    edit(config, evaluation={"model_args": {"tokenizer": "org/unknown-tokenizer"}})
    found = session().check(load_config(config), tmp_path / "check", Fetch()).unshared
    assert set(found) == {"alpha", "beta"}
    assert found["beta"].startswith("evaluation.model_args.tokenizer = org/unknown-tokenizer: cannot be identified")


# ------------------------------------------------------------------------------------------------------------- recipes

RECIPE = """
merge_method: linear
models:
- model: {{{{ parent_1 }}}}
  parameters: {{weight: 1.0}}
- model: {{{{ parent_2 }}}}
  parameters: {{weight: 1.0}}
- model: {}
  parameters: {{weight: 1.0}}
dtype: {{{{ dtype }}}}
"""


def children(finished: Finished) -> list[str | None]:
    return [model.identity for model in finished.tree.models if model.parents]


@pytest.fixture
def third(config: Path, tmp_path: Path) -> Path:
    write_model(tmp_path / "third", 77)
    (tmp_path / "family" / "three.yaml").write_text(RECIPE.format(tmp_path / "third"))
    edit(config, merge={"recipe": "./three.yaml"})
    return tmp_path / "third"


def test_a_model_that_a_recipe_names_is_part_of_the_child(config: Path, third: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first = begin(config, runs / "one")
    assert list(started(runs / "one").recipe_models) == [str(third)]
    assert children(begin(config, runs / "two")) == children(first)
    assert reused(runs / "two") == [{"alpha", "beta"}] * 3
    shutil.copytree(third, tmp_path / "copy")
    (tmp_path / "family" / "three.yaml").write_text(RECIPE.format(tmp_path / "copy"))
    assert children(begin(config, runs / "three")) == children(first)
    write_model(tmp_path / "copy", 78)
    assert children(begin(config, runs / "four")) != children(first)
    assert reused(runs / "four") == [{"alpha", "beta"}] * 2 + [set()]
    write_model(third, 78)
    with pytest.raises(RecipeError, match=f"{third}: the files of this model, which a recipe names, have changed"):
        session().run(load_config(config, ["merge.recipe=" + str(_with(third, tmp_path))]), runs / "one")


def _with(third: Path, folder: Path) -> Path:
    path = folder / "family" / "three.yaml"
    path.write_text(RECIPE.format(third))
    return path


def test_a_journal_without_the_field_keeps_the_identity(config: Path, third: Path, tmp_path: Path) -> None:
    from evolve.engines import merging

    template = merging.parse_template("three", RECIPE.format(third))
    old = merging.identity(template, ("a", "b"), "base", "bfloat16", None)
    assert old == merging.identity(template, ("a", "b"), "base", "bfloat16", None, named={})
    assert old != merging.identity(template, ("a", "b"), "base", "bfloat16", None, named={str(third): "x"})


@pytest.mark.parametrize(
    ("named", "shared"), [("org/third", False), ("org/third@main", False), (f"org/third@{COMMIT}", True)]
)
def test_a_model_of_the_hub_in_a_recipe_needs_a_commit(
    *, named: str, shared: bool, config: Path, third: Path, tmp_path: Path
) -> None:
    (tmp_path / "family" / "three.yaml").write_text(RECIPE.format(named))
    unshared = session().check(load_config(config), tmp_path / "check", Fetch()).unshared
    assert (set(unshared) == set()) is shared
    assert shared or "without a commit; write <name>@<commit>" in unshared["alpha"]


@pytest.mark.parametrize(
    ("named", "message"), [("./third", "is a relative path"), ("/nowhere/third", "/nowhere/third .* cannot be read")]
)
def test_a_model_of_a_recipe_that_cannot_be_found(
    named: str, message: str, config: Path, third: Path, tmp_path: Path
) -> None:
    (tmp_path / "family" / "three.yaml").write_text(RECIPE.format(named))
    with pytest.raises(RecipeError, match=message):
        session().check(load_config(config), tmp_path / "check", Fetch())


# --------------------------------------------------------------------------------------------------------------- scores


def _score(change: Callable[[EvaluateResult], EvaluateResult]) -> Engines:
    def evaluate(job: EvaluateJob, report: Report, device: str = "auto") -> EvaluateResult:
        return change(FAKE.evaluate(job, report, device))

    return replace(FAKE, evaluate=evaluate)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda result: replace(result, scores={**result.scores, "alpha": TaskScore("acc,none", 7.5, None, 9)}),
            "the score on alpha is impossible: 7.5 is no value of acc, which is between 0 and 1",
        ),
        (
            lambda result: replace(result, scores={**result.scores, "more": TaskScore("acc,none", 0.5, None, 9)}),
            "has scores of alpha, beta, more instead of alpha, beta",
        ),
        (
            lambda result: replace(result, scores={"alpha": result.scores["alpha"]}),
            "has scores of alpha instead of alpha, beta",
        ),
    ],
    ids=["impossible", "more", "missing"],
)
def test_a_bad_result_of_the_engine_is_refused(
    change: Callable[[EvaluateResult], EvaluateResult], message: str, config: Path, tmp_path: Path
) -> None:
    one = Session(_score(change), Silent(), executors=InlineExecutor)
    with pytest.raises(EvaluationError, match=message):
        one.run(load_config(config, LIMITS), tmp_path / "runs" / "run")
    assert not list((tmp_path / "runs").glob(".scores/[!.]*"))


def test_bad_records_in_the_store_and_in_the_run_are_scored_again(config: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    begin(config, runs / "one")
    expected = events(runs / "one", "model_evaluated")
    for number, record in enumerate(sorted((runs / ".scores").glob("*/*/score.json"))):
        spoiled = record.read_text().replace('"acc,none"', '"f1,none"')
        record.write_text(['{"scores": {}}', spoiled][number % 2])
    begin(config, runs / "two")
    assert reused(runs / "two") == [set()] * 3
    assert [event["scores"] for event in events(runs / "two", "model_evaluated")] == [e["scores"] for e in expected]
    old = runs / "one" / "evals" / "A"
    shutil.rmtree(old)
    old.mkdir()
    (old / "score.json").write_text('{"key": "x", "scores": {"alpha": 1}}')  # the layout of one record for all tasks
    lines = (runs / "one" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (runs / "one" / "journal.jsonl").write_bytes(b"".join(lines[:1]))
    begin(config, runs / "one")
    assert [event["scores"] for event in events(runs / "one", "model_evaluated")] == [e["scores"] for e in expected]


def test_task_code_is_refused_by_the_key(config: Path, tmp_path: Path) -> None:
    def inspect(job: InspectTasksJob, report: Report) -> Mapping[str, TaskFacts]:
        if not job.trust_task_code:
            raise TaskError("evaluation: task 'alpha' runs Python; set evaluation.trust_task_code to true")
        return FAKE.inspect_tasks(job, report)

    one = Session(replace(FAKE, inspect_tasks=inspect), Silent(), executors=InlineExecutor)
    with pytest.raises(InputError, match=r"evaluation\.tasks\.0 = .*set evaluation\.trust_task_code to true"):
        one.check(load_config(config), tmp_path / "check", Fetch())
    one.run(load_config(config, [*LIMITS, "evaluation.trust_task_code=true"]), tmp_path / "runs" / "run")


# -------------------------------------------------------------------------------------------------- folders of tasks


@pytest.fixture
def tasks(config: Path, tmp_path: Path) -> Path:
    """Make a folder with a task and its data, and name both in the configuration."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "own.yaml").write_text("task: own\n")
    (folder / "test.jsonl").write_text("{}\n")
    edit(config, evaluation={"task_dirs": [str(folder)], "datasets": {"beta": str(folder)}})
    return folder


def test_files_that_no_task_reads_come_and_go(config: Path, tasks: Path) -> None:
    """The folder of the tasks also holds the runs, and an editor and a file manager write into it."""

    def evaluate(job: EvaluateJob, report: Report, device: str = "auto") -> EvaluateResult:
        for name in (".DS_Store", ".old/own.yaml", "._test.jsonl", "code/__pycache__/own.pyc"):
            (tasks / name).parent.mkdir(exist_ok=True, parents=True)
            (tasks / name).write_text(str(job.checkpoint))
        return FAKE.evaluate(job, report, device)

    changing = Session(replace(FAKE, evaluate=evaluate), Silent(), executors=InlineExecutor)
    run = tasks / "runs" / "one"
    done = changing.run(load_config(config, LIMITS), run)
    assert done.worked
    assert set(started(run).data) == {"beta/test.jsonl", "task_dirs.0/own.yaml", "task_dirs.0/test.jsonl"}
    assert changing.run(load_config(config, ["strategy.max_generations=2"]), run).worked
    begin(config, tasks / "runs" / "two")
    assert reused(tasks / "runs" / "two") == [{"alpha", "beta"}] * 3


def test_a_journal_with_files_that_no_task_reads(config: Path, tasks: Path, tmp_path: Path) -> None:
    """An older version of evolve recorded every file in the folders."""
    run = tmp_path / "runs" / "one"
    begin(config, run)
    unread = {"task_dirs.0/.DS_Store": "0" * 64, "beta/._test.jsonl": "0" * 64}
    forge(run, lambda event: event["data"].update(unread) if event["type"] == "run_started" else None)
    assert session().run(load_config(config, ["strategy.max_generations=2"]), run).worked
