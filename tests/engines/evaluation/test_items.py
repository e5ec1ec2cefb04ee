"""Which items are answered, the values of items, and answers that are not computed again."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pandas
import pyarrow as pa
import pytest
from lm_eval.api.metrics import aggregate_subtask_metrics, mean, mean_stderr
from pyarrow import parquet

from evolve.engines.evaluation.answers import read_answers
from evolve.engines.evaluation.interception import Interception
from evolve.engines.evaluation.request_cache import RequestCache
from evolve.engines.protocols import TaskSpec
from evolve.errors import TaskError

from . import _world

TASKS = ("winogrande", "gsm8k", "truthfulqa_mc2")
GROUP = TaskSpec("pair", "acc,none", num_fewshot=2)


@pytest.fixture(scope="module")
def own_tasks(data, tmp_path_factory) -> Path:
    """Write the group `pair` of two tasks, the group `plain` that does not weight them, and tasks of other metrics."""
    folder = tmp_path_factory.mktemp("tasks")
    text = (
        "task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {data}/gsm8k/{split}.jsonl\n"
        "output_type: {kind}\ntest_split: test\ndoc_to_text: '{{{{question}}}}'\n{fields}metric_list:\n"
        "- metric: {metric}\n  higher_is_better: true\n"
    )
    choices = "doc_to_choice: ['1', '2']\ndoc_to_target: '{{question | length % 2}}'\n"
    for name, split in (("small_a", "test"), ("small_b", "train")):
        filled = text.format(
            name=name, data=data, split=split, kind="multiple_choice", fields=choices, metric="acc\n  aggregation: mean"
        )
        (folder / f"{name}.yaml").write_text(filled)
    answers = "doc_to_target: '{{answer}}'\n"
    filled = text.format(
        name="wordy", data=data, split="test", kind="loglikelihood_rolling", fields=answers, metric="word_perplexity"
    )
    (folder / "wordy.yaml").write_text(filled)
    filled = text.format(
        name="often",
        data=data,
        split="test",
        kind="generate_until",
        fields=answers + "repeats: 2\nnum_fewshot: 2\ngeneration_kwargs: {until: ['.'], max_gen_toks: 4}\n",
        metric="exact_match",
    )
    (folder / "often.yaml").write_text(filled)
    group = "group: {name}\ntask: [small_a, small_b]\naggregate_metric_list:\n- metric: acc\n  weight_by_size: {by}\n"
    (folder / "pair.yaml").write_text(group.format(name="pair", by="true"))
    (folder / "plain.yaml").write_text(group.format(name="plain", by="false"))
    return folder


@pytest.fixture(scope="module")
def whole(model, data, own_tasks, tmp_path_factory):
    """All items of all tasks."""
    output = tmp_path_factory.mktemp("whole")
    specs = (*_world.three_tasks(data), GROUP, TaskSpec("often", "exact_match,none"))
    return _world.score(model, specs, output, task_dirs=(own_tasks,)), output


@pytest.fixture
def computed(monkeypatch):
    """Requests that the model has answered, by the kind of the request."""
    seen = {"loglikelihood": [], "generate_until": []}
    answered = Interception._answered

    def recorded(self, name, request, answer):
        seen[name].append(request)
        answered(self, name, request, answer)

    monkeypatch.setattr(Interception, "_answered", recorded)
    return seen


def rows(output: Path, folder: str, task: str) -> dict[int, dict]:
    """Return lm-eval's samples by item; the first filter's where there are several."""
    lines = (output / folder / f"samples_{task}.jsonl").read_text(encoding="utf-8").splitlines()
    found: dict[int, dict] = {}
    for row in map(json.loads, lines):
        found.setdefault(row["doc_id"], row)
    return found


# --------------------------------------------------------------------------------------------------------- selection


@pytest.mark.parametrize("ids", [(0,), (11,), (3, 4, 9), tuple(range(12))], ids=str)
def test_an_item_has_the_prompt_and_answer_of_a_full_run(whole, model, data, tmp_path, ids):
    specs = tuple(replace(spec, items={spec.task: ids}) for spec in _world.three_tasks(data))
    result = _world.score(model, specs, tmp_path)

    for task in TASKS:
        mine, full = rows(tmp_path, task, task), rows(whole[1], task, task)
        assert tuple(mine) == ids
        for item, row in mine.items():
            for key in ("doc", "target", "arguments", "doc_hash", "prompt_hash"):
                assert row[key] == full[item][key]
        assert result.scores[task].samples == len(ids)
    assert rows(tmp_path, "gsm8k", "gsm8k")[ids[0]]["resps"] == rows(whole[1], "gsm8k", "gsm8k")[ids[0]]["resps"]


def test_items_of_repeated_requests(whole, model, own_tasks, tmp_path):
    spec = TaskSpec("often", "exact_match,none", items={"often": (2, 7)})
    _world.score(model, (spec,), tmp_path, task_dirs=(own_tasks,))

    mine, full = rows(tmp_path, "often", "often"), rows(whole[1], "often", "often")
    assert {item: row["arguments"] for item, row in mine.items()} == {item: full[item]["arguments"] for item in (2, 7)}
    assert all(len(row["resps"][0]) == 2 for row in mine.values())


@pytest.mark.parametrize("items", [{"small_a": (0, 5), "small_b": (19,)}, {"small_b": (3, 4)}], ids=str)
def test_items_of_a_group_are_named_by_its_tasks(whole, model, own_tasks, tmp_path, items):
    spec = replace(GROUP, items=items)
    seen = []
    result = _world.score(model, (spec,), tmp_path, lambda *said: seen.append(said), task_dirs=(own_tasks,))

    for name, ids in items.items():
        mine, full = rows(tmp_path, "pair", name), rows(whole[1], "pair", name)
        assert {item: row["arguments"] for item, row in mine.items()} == {i: full[i]["arguments"] for i in ids}
    assert sorted(file.name for file in tmp_path.glob("pair/samples_*")) == [f"samples_{name}.jsonl" for name in items]
    count = sum(map(len, items.values()))
    assert result.scores["pair"].samples == count
    assert seen[-1] == ("scoring pair", count, count)


def test_a_kept_task_answers_all_items_again(whole, model, data, tmp_path):
    spec = _world.three_tasks(data)[0]
    _world.score(model, (replace(spec, items={"winogrande": (1,)}),), tmp_path / "one")
    _world.score(model, (spec,), tmp_path / "all")
    assert rows(tmp_path / "all", "winogrande", "winogrande") == rows(whole[1], "winogrande", "winogrande")


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({"winogrande": (3, 12)}, "task 'winogrande' has no item 12; it has 12 items"),
        ({"gsm8k": (1,)}, "'winogrande' has no task 'gsm8k'; it has winogrande"),
    ],
)
def test_unknown_items_are_refused_before_the_model_is_loaded(model, data, tmp_path, items, message):
    seen = []
    with pytest.raises(TaskError, match=message):
        _world.score(
            model, (replace(_world.three_tasks(data)[0], items=items),), tmp_path, lambda said, *_: seen.append(said)
        )
    assert seen == ["reading tasks"]


@pytest.mark.parametrize("ids", [(), (3, 3), (4, 2), (-1, 2)])
def test_a_specification_refuses_ids_that_do_not_ascend(ids):
    with pytest.raises(ValueError, match="items"):
        TaskSpec("a", "acc,none", items={"a": ids})


def test_a_specification_takes_either_items_or_a_limit():
    with pytest.raises(ValueError, match="not both"):
        TaskSpec("a", "acc,none", limit=3, items={"a": (1,)})
    assert TaskSpec("a", "acc,none", items={"a": (5,)}).shortened(2) == TaskSpec("a", "acc,none", limit=2)


# ------------------------------------------------------------------------------------------------------------- values


def test_a_score_is_the_mean_of_the_values_to_the_last_digit(whole):
    result, output = whole
    for task in TASKS:
        frame = pandas.read_parquet(output / task / "items.parquet")
        assert list(frame.columns) == ["task", "item", "value", "doc_hash"]
        assert list(map(str, frame.dtypes[["item", "value"]])) == ["int64", "float64"]
        assert set(frame["task"]) == {task}
        values = frame["value"].tolist()
        score = result.scores[task]
        assert (mean(values), mean_stderr(values)) == (score.value, score.stderr)
        full = rows(output, task, task)
        assert frame["item"].tolist() == list(full)
        assert frame["doc_hash"].tolist() == [row["doc_hash"] for row in full.values()]
    assert len(set(pandas.read_parquet(output / "truthfulqa_mc2" / "items.parquet")["value"])) == 12


@pytest.mark.parametrize(("group", "by_size"), [("pair", True), ("plain", False)])
def test_the_score_of_a_group_is_that_of_its_tasks_values(model, own_tasks, tmp_path, group, by_size):
    items = {"small_a": tuple(range(12)), "small_b": (0, 1, 2, 5, 7)}
    spec = TaskSpec(group, "acc,none", items=items)
    result = _world.score(model, (spec,), tmp_path, task_dirs=(own_tasks,))

    values = pandas.read_parquet(tmp_path / group / "items.parquet").groupby("task")["value"].apply(list)
    means = [mean(values[name]) for name in items]
    assert result.scores[group].value == aggregate_subtask_metrics(means, list(map(len, values)), by_size)
    facts = _world.inspect(TaskSpec(group, "acc,none"), task_dirs=(own_tasks,))[group]
    assert facts.weighted_by_size is by_size
    assert facts.members == {"small_a": 12, "small_b": 20}
    assert facts.not_a_mean is None


def test_a_metric_that_is_no_mean_has_no_values_and_the_reason_is_known_before(model, own_tasks, tmp_path):
    spec = TaskSpec("wordy", "word_perplexity,none", limit=3)
    facts = _world.inspect(spec, task_dirs=(own_tasks,))["wordy"]
    assert facts.not_a_mean == (
        "lm-eval aggregates 'word_perplexity' of the task 'wordy' by weighted_perplexity, not by the mean of its items"
    )
    assert facts.members == {"wordy": 3}
    result = _world.score(model, (spec,), tmp_path, task_dirs=(own_tasks,))
    assert result.scores["wordy"].value > 0
    assert not (tmp_path / "wordy" / "items.parquet").exists()
    assert (tmp_path / "wordy" / "answers.parquet").exists()


def test_facts_without_data_know_no_items(data):
    facts = _world.inspect(*_world.three_tasks(data), render=False)
    assert {fact.members for fact in facts.values()} == {None}
    facts = _world.inspect(*_world.three_tasks(data, limit=5))
    assert {task: fact.members for task, fact in facts.items()} == {task: {task: 5} for task in TASKS}
    assert {fact.not_a_mean for fact in facts.values()} == {None}


# ------------------------------------------------------------------------------------------------------------ answers


def known(*outputs: Path) -> dict[str, tuple[Path, ...]]:
    return {task: tuple(output / task / "answers.parquet" for output in outputs) for task in TASKS}


def test_known_answers_are_not_computed_again(whole, model, data, tmp_path, computed):
    first = _world.three_tasks(data, limit=5)
    _world.score(model, first, tmp_path / "five")
    counts = {name: len(requests) for name, requests in computed.items()}
    for requests in computed.values():
        requests.clear()

    result = _world.score(model, _world.three_tasks(data), tmp_path / "all", answers=known(tmp_path / "five"))
    assert {name: counts[name] + len(requests) for name, requests in computed.items()} == {
        "loglikelihood": 12 * 2 + 12 * 5,
        "generate_until": 12,
    }
    for task in TASKS:
        assert result.scores[task].value == pytest.approx(whole[0].scores[task].value, rel=1e-6)
        mine, full = rows(tmp_path / "all", task, task), rows(whole[1], task, task)
        assert [row["arguments"] for row in mine.values()] == [row["arguments"] for row in full.values()]

    for requests in computed.values():
        requests.clear()
    again = _world.score(model, _world.three_tasks(data), tmp_path / "again", answers=known(tmp_path / "all"))
    assert computed == {"loglikelihood": [], "generate_until": []}
    assert again.scores == result.scores
    assert _world.samples_of(tmp_path / "again") == _world.samples_of(tmp_path / "all")


def test_a_repeated_request_is_answered_from_the_file_as_often_as_it_was_computed(
    whole, model, own_tasks, tmp_path, computed
):
    file = whole[1] / "often" / "answers.parquet"
    assert set(parquet.read_table(file)["times"].to_pylist()) == {2}
    rare = tmp_path / "rare.parquet"
    table = parquet.read_table(file)
    parquet.write_table(table.set_column(5, table.schema.field("times"), [[1] * len(table)]), rare)

    spec = TaskSpec("often", "exact_match,none")
    for name, path, expected in (("twice", file, 0), ("once", rare, 12)):
        computed["generate_until"].clear()
        _world.score(model, (spec,), tmp_path / name, task_dirs=(own_tasks,), answers={"often": (path,)})
        assert len(computed["generate_until"]) == expected
        assert rows(tmp_path / name, "often", "often") == rows(whole[1], "often", "often")


def test_sampled_answers_are_not_known(model, data, tmp_path, computed):
    spec = _world.three_tasks(data, limit=3)[1]
    spec = replace(spec, generation_kwargs={"max_gen_toks": 4, "do_sample": True, "temperature": 1.0})
    _world.score(model, (spec,), tmp_path / "a")
    assert len(parquet.read_table(tmp_path / "a" / "gsm8k" / "answers.parquet")) == 0
    _world.score(model, (spec,), tmp_path / "b", answers=known(tmp_path / "a"))
    assert len(computed["generate_until"]) == 6


@pytest.mark.parametrize(("task", "stop"), [("winogrande", 7), ("gsm8k", 5), ("truthfulqa_mc2", 23)])
def test_an_interrupted_evaluation_goes_on_with_the_answers_with_which_it_began(
    model, data, tmp_path, monkeypatch, *, task, stop
):
    """More answers have become known in between; with them the remaining items would form other batches."""
    specs = tuple(spec for spec in _world.three_tasks(data) if spec.task == task)
    for limit in (2, 7):
        _world.score(model, (replace(specs[0], limit=limit),), tmp_path / str(limit))
    uncut = _world.score(model, specs, tmp_path / "uncut", answers=known(tmp_path / "2"))

    monkeypatch.setattr(RequestCache.__init__, "__defaults__", (0.0,))
    options = {"request_caches": _world.request_caches(tmp_path / "caches", specs)}
    with _world.interrupted(stop) as answered:
        with pytest.raises(KeyboardInterrupt):
            _world.score(model, specs, tmp_path / "cut", answers=known(tmp_path / "2"), **options)
        assert len(answered) == stop
        again = _world.score(model, specs, tmp_path / "again", answers=known(tmp_path / "2", tmp_path / "7"), **options)
    requests = {"winogrande": 2, "gsm8k": 1, "truthfulqa_mc2": 5}[task]
    # The first two items were known, and of the others nothing but what was computed.
    assert len(answered) > 10 * requests
    assert again.scores == uncut.scores
    assert _world.samples_of(tmp_path / "again") == _world.samples_of(tmp_path / "uncut")


def test_a_cache_with_answers_takes_no_others(tmp_path):
    with closing(RequestCache(tmp_path / "a.db")) as cache:
        cache.learn({"x": ("first", 1)})
    with closing(RequestCache(tmp_path / "a.db")) as cache:
        cache.learn({"x": ("second", 2), "y": (-1.0, 1)})
        assert cache.answer("x") == ("first", 1)
        assert cache.answer("y") == (None, 0)


def _truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def _with(column: str, values: list) -> object:
    def change(file: Path) -> None:
        table = parquet.read_table(file)
        place = table.schema.names.index(column)
        changed = pa.array([*values, *table[column].to_pylist()[len(values) :]])
        parquet.write_table(table.set_column(place, column, changed), file)

    return change


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        _truncated,
        lambda file: file.write_bytes(b""),
        lambda file: file.write_text("no parquet"),
        lambda file: parquet.write_table(pa.table({"a": [1]}), file),
        _with("number", [float("nan")]),
        _with("number", [None]),
        _with("times", [0]),
        _with("times", [None]),
        _with("request", [None]),
        _with("request", [b"short"]),
        _with("text", ["both"]),
    ],
    ids=[
        "missing", "truncated", "empty", "text", "foreign", "nan", "nothing", "never", "no-count", "no-request",
        "short-request", "both",
    ],
)  # fmt: skip
def test_a_file_that_is_damaged_or_foreign_is_ignored_with_a_warning(whole, tmp_path, caplog, damage):
    good, bad = tmp_path / "good.parquet", tmp_path / "bad.parquet"
    for file in (good, bad):
        file.write_bytes((whole[1] / "winogrande" / "answers.parquet").read_bytes())
    expected = read_answers([good])
    assert len(expected) == 24
    assert not caplog.records
    damage(bad)
    assert read_answers([bad, good]) == expected
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(bad) in caplog.text


def test_answers_take_little_room(whole):
    for task in TASKS:
        size = (whole[1] / task / "answers.parquet").stat().st_size
        assert size < (whole[1] / task / f"samples_{task}.jsonl").stat().st_size / 2
