"""Errors in tasks that `inspect_tasks` finds before a model is loaded."""

from __future__ import annotations

import dataclasses
import json

import pytest

from evolve.engines.evaluation import inspect_tasks, models, rendering
from evolve.engines.protocols import InspectTasksJob, TaskFacts, TaskSpec
from evolve.errors import TaskError

from . import _world


def test_facts_of_local_tasks(data):
    facts = _world.inspect(*_world.three_tasks(data))
    kinds = {"winogrande": "multiple_choice", "gsm8k": "generate_until", "truthfulqa_mc2": "multiple_choice"}
    assert facts == {
        task: TaskFacts(12, kind, higher_is_better=True, needs_hub=False, reads=facts[task].reads, members={task: 12})
        for task, kind in kinds.items()
    }
    assert _world.inspect(*_world.three_tasks(data, limit=5))["gsm8k"].documents == 5


def test_facts_of_tasks_on_the_hub():
    facts = _world.inspect(TaskSpec("winogrande", "acc,none"), TaskSpec("wikitext", "word_perplexity,none"))
    assert facts["winogrande"] == TaskFacts(None, "multiple_choice", higher_is_better=True, needs_hub=True)
    assert facts["wikitext"] == TaskFacts(None, "loglikelihood_rolling", higher_is_better=False, needs_hub=True)


def test_group(data):
    facts = _world.inspect(TaskSpec("mmlu", "acc,none", num_fewshot=5))
    assert facts["mmlu"] == TaskFacts(None, "multiple_choice", higher_is_better=True, needs_hub=True)
    with pytest.raises(TaskError, match="group 'mmlu' has no aggregate 'acc_norm,none'; it has acc,none"):
        _world.inspect(TaskSpec("mmlu", "acc_norm,none"))
    with pytest.raises(TaskError, match="'mmlu' is a group, so no data folder"):
        _world.inspect(TaskSpec("mmlu", "acc,none", dataset=data / "gsm8k"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (TaskSpec("winogrand", "acc,none"), "no task or group 'winogrand'. Did you mean: winogrande"),
        (TaskSpec("ai2_arc", "acc,none"), r"a tag of 2 tasks.*arc_challenge, arc_easy"),
        (TaskSpec("gsm8k", "exact_match,none"), "has exact_match,flexible-extract, exact_match,strict-match"),
        (TaskSpec("winogrande", "acc"), "no metric 'acc'; it has acc,none"),
        (TaskSpec("winogrande", "acc,none", generation_kwargs={"max_gen_toks": 3}), "generates no text"),
    ],
)
def test_wrong_names_and_options(spec, message):
    with pytest.raises(TaskError, match=message):
        _world.inspect(spec)


def test_metric_without_direction(data, tmp_path):
    (tmp_path / "own.yaml").write_text(
        "task: own\noutput_type: multiple_choice\ntest_split: test\ndataset_path: json\ndoc_to_text: x\n"
        "metric_list:\n- metric: surprise\n  aggregation: mean\n"
    )
    with pytest.raises(TaskError, match="does not say whether more of 'surprise,none' is better"):
        _world.inspect(TaskSpec("own", "surprise,none"), task_dirs=(tmp_path,))
    with pytest.raises(TaskError, match=r"folder .*missing does not exist"):
        _world.inspect(TaskSpec("own", "surprise,none"), task_dirs=(tmp_path / "missing",))


def test_an_unknown_task_is_reported_before_its_data(data, tmp_path):
    gsm = dataclasses.replace(_world.three_tasks(data)[1], dataset=tmp_path / "missing")
    unknown = TaskSpec("winogrand", "acc,none", dataset=tmp_path / "missing")
    for specs in ((unknown,), (gsm, unknown)):
        with pytest.raises(TaskError, match=r"no task or group 'winogrand'\. Did you mean: winogrande"):
            _world.inspect(*specs)
    with pytest.raises(TaskError, match=r"task 'gsm8k', .*missing, does not exist"):
        _world.inspect(gsm)


def test_tasks_that_would_be_counted_or_stored_twice(tmp_path):
    with pytest.raises(TaskError, match="'mmlu_anatomy' occurs twice: in 'mmlu' and in 'mmlu_anatomy'"):
        _world.inspect(TaskSpec("mmlu", "acc,none"), TaskSpec("mmlu_anatomy", "acc,none"))
    for name in ("a/b", "a_b"):
        (tmp_path / f"{name[0]}{len(name)}{name[1] == '_'}.yaml").write_text(
            f"task: {name}\noutput_type: multiple_choice\ntest_split: test\ndataset_path: json\ndoc_to_text: x\n"
        )
    with pytest.raises(TaskError, match="tasks 'a_b' and 'a/b' have the same folder name"):
        _world.inspect(TaskSpec("a/b", "acc,none"), TaskSpec("a_b", "acc,none"), task_dirs=(tmp_path,))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("hff", "evaluation.model = hff: .* no model class 'hff'. Did you mean: hf"),
        ("vllm", r"evaluation.model = vllm: .* not installed .*pip install 'lm-eval\[vllm\]'"),
        ("sglang", "needs the package sglang, which is not installed"),
        ("local-completions", "loads no checkpoint"),
        ("dummy", "loads no checkpoint"),
    ],
)
def test_a_model_class_that_cannot_be_used(data, model, message):
    with pytest.raises(TaskError, match=message):
        _world.inspect(*_world.three_tasks(data), model=model)


def test_which_model_classes_take_an_automatic_batch_size(data, monkeypatch):
    monkeypatch.setattr(models, "_PACKAGES", {})
    (gsm,) = _world.three_tasks(data)[1:2]
    for name in ("hf", "hf-auto", "mamba_ssm", "sglang"):
        assert "gsm8k" in _world.inspect(gsm, model=name, batch_size="auto")
    for name in ("hf-multimodal", "onnxruntime"):
        assert "gsm8k" in _world.inspect(gsm, model=name, batch_size=16)
        with pytest.raises(TaskError, match=f"evaluation.batch_size = auto: the class {name} of lm-eval takes only"):
            _world.inspect(gsm, model=name, batch_size="auto")


@pytest.fixture
def gsm(tmp_path):
    _world.make_data(tmp_path, count=3)
    return _world.three_tasks(tmp_path)[1]


def test_missing_split(gsm):
    (gsm.dataset / "train.jsonl").unlink()
    with pytest.raises(TaskError, match=r"needs the split 'train'.*it contains test\.jsonl"):
        _world.inspect(gsm)
    # Without few-shot examples the training split is not needed.
    assert _world.inspect(dataclasses.replace(gsm, num_fewshot=0))["gsm8k"].documents == 3
    with pytest.raises(TaskError, match="does not exist"):
        _world.inspect(dataclasses.replace(gsm, dataset=gsm.dataset / "x"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        ('{"question": "a", "answer": "b #### 1"}\n{"question": ', "line 2.* is not JSON"),
        ("[1, 2]\n", "line 1.* is not a JSON object"),
        ('{"question": "a", "answer": "b #### 1"}\n{"question": "c"}\n', "line 2: the field 'answer' is missing"),
        ('{"query": "a", "answer": "b #### 1"}\n', "question"),
    ],
)
def test_unusable_data(gsm, text, message):
    (gsm.dataset / "test.jsonl").write_text(text)
    with pytest.raises(TaskError, match=message):
        _world.inspect(gsm)


def _spoil(file, row, **entries):
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[row] |= entries
    _world.write_lines(file, rows)


def test_a_bad_row_behind_the_first_is_refused_with_its_place(tmp_path):
    _world.make_data(tmp_path)
    winogrande = _world.three_tasks(tmp_path)[0]
    bad = winogrande.dataset / "validation.jsonl"
    _spoil(bad, 9, answer="3")
    with pytest.raises(TaskError, match=f"row 10 of {bad}, data of task 'winogrande' cannot be rendered \\(KeyError"):
        _world.inspect(winogrande)
    assert _world.inspect(dataclasses.replace(winogrande, limit=9))["winogrande"].documents == 9


def test_a_bad_example_is_refused_with_its_place(tmp_path):
    _world.make_data(tmp_path)
    winogrande = _world.three_tasks(tmp_path)[0]
    bad = winogrande.dataset / "train.jsonl"
    _spoil(bad, 13, answer="3")
    with pytest.raises(TaskError, match=f"row 14 of {bad}, data of task 'winogrande' .* as a few-shot example"):
        _world.inspect(winogrande)
    assert _world.inspect(dataclasses.replace(winogrande, num_fewshot=0))["winogrande"].documents == 12


def test_the_rendered_prompts_are_those_of_the_evaluation(model, data, tmp_path, monkeypatch):
    """A check with the seed of the run finds the examples that the run will use."""
    seen = []

    def requests(task, number, doc, shots):
        made = original(task, number, doc, shots)
        seen.append([list(request.arguments) for request in made])
        return made

    original = rendering._requests
    monkeypatch.setattr(rendering, "_requests", requests)
    (gsm,) = _world.three_tasks(data, limit=4)[1:2]
    _world.inspect(gsm, seed=7)
    _world.score(model, (gsm,), tmp_path / "out")
    prompts = [sample["gen_args_0"]["arg_0"] for sample in _world.prompts(tmp_path / "out", "gsm8k")]
    assert [arguments[0][0] for arguments in seen] == list(dict.fromkeys(prompts))


def test_progress_of_many_documents(tmp_path):
    _world.make_data(tmp_path, count=250)
    reports = []
    inspect_tasks(InspectTasksJob(_world.three_tasks(tmp_path)[1:2]), lambda *report: reports.append(report))
    assert [report for report in reports if report[0] == "rendering gsm8k"] == [
        ("rendering gsm8k", done, 250) for done in (0, 100, 200)
    ]


def test_too_few_examples(gsm):
    with pytest.raises(TaskError, match="cannot be rendered with 21 few-shot examples"):
        _world.inspect(dataclasses.replace(gsm, num_fewshot=21))


def test_parquet(gsm, tmp_path):
    from pyarrow import Table, parquet

    for split in ("train", "test"):
        rows = [json.loads(line) for line in (gsm.dataset / f"{split}.jsonl").read_text().splitlines()]
        parquet.write_table(Table.from_pylist(rows), gsm.dataset / f"{split}.parquet")
    (gsm.dataset / "test.jsonl").unlink()
    with pytest.raises(TaskError, match=r"partly \.jsonl and partly \.parquet"):
        _world.inspect(gsm)
    (gsm.dataset / "train.jsonl").unlink()
    assert _world.inspect(gsm)["gsm8k"].documents == 3
    (gsm.dataset / "test.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(TaskError, match="is not a Parquet file"):
        _world.inspect(gsm)
