import pytest
from family_trees import TASKS

from evolve.analysis import differing_settings


def differing(family, **config):
    return differing_settings({"a": family(versions={"lm_eval": "0.4.13"}).tree, "b": family(**config).tree})


@pytest.fixture
def like(family):
    """Compare a run with one that has the same lm-eval version and other settings."""
    return lambda **config: differing(family, **{"versions": {"lm_eval": "0.4.13"}, **config})


def tasks(**changed):
    """Return the tasks of the runs here, one of them changed."""
    metrics = {"winogrande": "acc,none", "gsm8k": "exact_match,strict-match", "truthfulqa_mc2": "acc,none"}
    return [{"task": task, "metric": metrics[task], **(changed if task == "gsm8k" else {})} for task in TASKS]


def test_settings_that_alter_no_score_do_not_count(like):
    assert like() == []
    assert like(strategy={"name": "greedy"}, evaluation={"batch_size": 4}, device="cpu", name="other") == []


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"seed": 1}, "seed"),
        ({"versions": {"lm_eval": "0.4.14"}}, "lm_eval"),
        ({"versions": {}}, "lm_eval"),
        ({"evaluation": {"limit": 10}}, "evaluation.limit"),
        ({"evaluation": {"model": "vllm"}}, "evaluation.model"),
        ({"evaluation": {"model_args": {"dtype": "float32"}}}, "evaluation.model_args"),
        ({"evaluation": {"apply_chat_template": True}}, "evaluation.apply_chat_template"),
        ({"evaluation": {"tasks": tasks(num_fewshot=3)}}, "evaluation.tasks.gsm8k.num_fewshot"),
        ({"evaluation": {"tasks": tasks(metric="acc,none")}}, "evaluation.tasks.gsm8k.metric"),
        ({"evaluation": {"tasks": tasks(limit=3)}}, "evaluation.tasks.gsm8k.limit"),
        ({"evaluation": {"tasks": tasks(weight=2)}}, "evaluation.tasks.gsm8k.weight"),
        ({"evaluation": {"tasks": tasks(higher_is_better=False)}}, "evaluation.tasks.gsm8k.higher_is_better"),
        ({"evaluation": {"tasks": tasks(generation_kwargs={"a": 1})}}, "evaluation.tasks.gsm8k.generation_kwargs"),
        ({"evaluation": {"tasks": tasks()[1:]}}, "evaluation.tasks"),
        ({"data": {"gsm8k/test.jsonl": "ab"}}, "evaluation.datasets.gsm8k"),
        ({"data": {"task_dirs.0/a.yaml": "ab"}}, "evaluation.task_dirs"),
        ({"foundations": {"A": 1, "B": 2}}, "foundation_models"),
    ],
)
def test_a_setting_that_alters_a_score_is_named_by_its_key(like, config, key):
    assert like(**config) == [key]


def test_another_base_model_is_named(family):
    other = family().tree
    base = other.started.base.model_copy(update={"identity": "another"})
    other.started = other.started.model_copy(update={"base": base})
    assert differing_settings({"a": family().tree, "b": other}) == ["base_model"]


def test_a_limit_of_a_task_equal_to_that_of_the_evaluation_is_no_difference(family):
    one = family(evaluation={"limit": 5}).tree
    other = family(evaluation={"limit": 5, "tasks": tasks(limit=5)}).tree
    assert differing_settings({"a": one, "b": other}) == []


def test_the_order_of_tasks_and_foundations_does_not_matter(family):
    other = family({"Open-chat": 1, "Instruct": 2, "MetaMath": 3}, evaluation={"tasks": tasks()[::-1]}).tree
    assert differing_settings({"a": family().tree, "b": other}) == []


def test_no_runs_differ_in_nothing():
    assert differing_settings({}) == []
