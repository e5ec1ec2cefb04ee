from __future__ import annotations

import dataclasses
import json

import pytest

from evolve.engines.evaluation import check_tasks
from evolve.engines.protocols import TaskFacts, TaskSpec
from evolve.errors import TaskError

from . import _world


def test_facts_of_local_tasks(data):
    facts = check_tasks(_world.three_tasks(data), ())
    assert facts == {
        "winogrande": TaskFacts(12, "multiple_choice", higher_is_better=True, needs_hub=False),
        "gsm8k": TaskFacts(12, "generate_until", higher_is_better=True, needs_hub=False),
        "truthfulqa_mc2": TaskFacts(12, "multiple_choice", higher_is_better=True, needs_hub=False),
    }
    assert check_tasks(_world.three_tasks(data, limit=5), ())["gsm8k"].documents == 5


def test_facts_of_tasks_on_the_hub():
    facts = check_tasks([TaskSpec("winogrande", "acc,none"), TaskSpec("wikitext", "word_perplexity,none")], ())
    assert facts["winogrande"] == TaskFacts(None, "multiple_choice", higher_is_better=True, needs_hub=True)
    assert facts["wikitext"] == TaskFacts(None, "loglikelihood_rolling", higher_is_better=False, needs_hub=True)


def test_group(data):
    facts = check_tasks([TaskSpec("mmlu", "acc,none", num_fewshot=5)], ())
    assert facts["mmlu"] == TaskFacts(None, "multiple_choice", higher_is_better=True, needs_hub=True)
    with pytest.raises(TaskError, match="group 'mmlu' has no aggregate 'acc_norm,none'; it has acc,none"):
        check_tasks([TaskSpec("mmlu", "acc_norm,none")], ())
    with pytest.raises(TaskError, match="'mmlu' is a group, so no data folder"):
        check_tasks([TaskSpec("mmlu", "acc,none", dataset=data / "gsm8k")], ())


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
        check_tasks([spec], ())


def test_metric_without_direction(data, tmp_path):
    (tmp_path / "own.yaml").write_text(
        "task: own\noutput_type: multiple_choice\ntest_split: test\ndataset_path: json\ndoc_to_text: x\n"
        "metric_list:\n- metric: surprise\n  aggregation: mean\n"
    )
    with pytest.raises(TaskError, match="does not say whether more of 'surprise,none' is better"):
        check_tasks([TaskSpec("own", "surprise,none")], [tmp_path])
    with pytest.raises(TaskError, match=r"folder .*missing does not exist"):
        check_tasks([TaskSpec("own", "surprise,none")], [tmp_path / "missing"])


@pytest.fixture
def gsm(tmp_path):
    _world.make_data(tmp_path, count=3)
    return _world.three_tasks(tmp_path)[1]


def test_missing_split(gsm):
    (gsm.dataset / "train.jsonl").unlink()
    with pytest.raises(TaskError, match=r"needs the split 'train'.*it holds test\.jsonl"):
        check_tasks([gsm], ())
    # Without examples in the prompt nobody reads the training split.
    assert check_tasks([dataclasses.replace(gsm, num_fewshot=0)], ())["gsm8k"].documents == 3
    with pytest.raises(TaskError, match="does not exist"):
        check_tasks([dataclasses.replace(gsm, dataset=gsm.dataset / "x")], ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no rows"),
        ('{"question": "a", "answer": "b #### 1"}\n{"question": ', "line 2.* is not JSON"),
        ("[1, 2]\n", "line 1.* is not a JSON object"),
        ('{"question": "a", "answer": "b #### 1"}\n{"question": "c"}\n', "line 2: the field 'answer' is missing"),
        ('{"query": "a", "answer": "b #### 1"}\n', "question"),
    ],
)
def test_unfit_data(gsm, text, message):
    (gsm.dataset / "test.jsonl").write_text(text)
    with pytest.raises(TaskError, match=message):
        check_tasks([gsm], ())


def test_too_few_examples(gsm):
    with pytest.raises(TaskError, match="cannot be rendered with 21 few-shot examples"):
        check_tasks([dataclasses.replace(gsm, num_fewshot=21)], ())


def test_parquet(gsm, tmp_path):
    from pyarrow import Table, parquet

    for split in ("train", "test"):
        rows = [json.loads(line) for line in (gsm.dataset / f"{split}.jsonl").read_text().splitlines()]
        parquet.write_table(Table.from_pylist(rows), gsm.dataset / f"{split}.parquet")
    (gsm.dataset / "test.jsonl").unlink()
    with pytest.raises(TaskError, match=r"partly \.jsonl and partly \.parquet"):
        check_tasks([gsm], ())
    (gsm.dataset / "train.jsonl").unlink()
    assert check_tasks([gsm], ())["gsm8k"].documents == 3
    (gsm.dataset / "test.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(TaskError, match="is not a Parquet file"):
        check_tasks([gsm], ())
