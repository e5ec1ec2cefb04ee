"""Errors in tasks that `inspect_tasks` finds before a model is loaded."""

from __future__ import annotations

import dataclasses
import json

import pytest

from evolve.engines.evaluation import models
from evolve.engines.protocols import TaskFacts, TaskSpec
from evolve.errors import TaskError

from . import _world


def test_facts_of_local_tasks(data):
    facts = _world.inspect(*_world.three_tasks(data))
    assert facts == {
        "winogrande": TaskFacts(12, "multiple_choice", higher_is_better=True, needs_hub=False),
        "gsm8k": TaskFacts(12, "generate_until", higher_is_better=True, needs_hub=False),
        "truthfulqa_mc2": TaskFacts(12, "multiple_choice", higher_is_better=True, needs_hub=False),
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
