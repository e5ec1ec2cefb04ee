"""Tasks and recipes that lm-eval or mergekit refuse: one message with file, key, value and fix, and no new files.

All cases share one worker, because loading the engines takes seconds. Two cases at the end start the real command.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from evolve.cli import driving
from evolve.nursery import Family
from evolve.run.executors import LocalExecutor
from evolve.run.session import Session
from tests.conftest import TASKS, Evolve, write_config
from tests.support.recipes import SLERP

Refused = Callable[..., str]


@pytest.fixture
def run(
    refused: Refused, family: Family, worker: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Return a function that calls `evolve run` with some sections of the configuration replaced."""
    monkeypatch.setattr(driving, "Session", partial(Session, executors=lambda progress, device: worker))

    def run(words: tuple[str, ...], **sections: Any) -> str:
        config = write_config(tmp_path / "mine.yaml", family, **sections)
        return refused("run", config, "--run-dir", tmp_path / "run", words=(f"{config}: ", *words))

    return run


def _scored(task: str, metric: str = "acc,none", **more: Any) -> dict[str, Any]:
    return {"tasks": [{"task": task, "metric": metric}], **more}


TASK_CASES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "an unknown task": (
        _scored("winogrnde"),
        (
            "evaluation.tasks.0 = {task: winogrnde, metric: 'acc,none'}: ",
            "no task or group",
            "Did you mean: winogrande",
        ),
    ),
    "a task with no similar name": (_scored("zzzqqq"), ("{task: zzzqqq,", "no task or group", "`lm-eval ls tasks`")),
    "an unknown second task": (
        {"tasks": [{"task": "winogrande"}, {"task": "hellaswagg"}]},
        ("evaluation.tasks.1 = {task: hellaswagg,", "Did you mean: hellaswag"),
    ),
    "a tag": (_scored("ai2_arc"), ("evaluation.tasks.0 = {task: ai2_arc,", "is a tag of 2 tasks", "arc_easy")),
    "a metric that the task does not have": (
        _scored("winogrande", "f1,none"),
        ("evaluation.tasks.0 = {task: winogrande, metric: 'f1,none'}: ", "no metric 'f1,none'", "it has acc,none"),
    ),
    "a filter that the task does not have": (
        _scored("gsm8k", "exact_match,none"),
        ("{task: gsm8k, ", "it has exact_match,flexible-extract, exact_match,strict-match"),
    ),
    "a loss as metric": (
        _scored("wikitext", "word_perplexity,none"),
        ("evaluation.tasks.0.metric = word_perplexity,none: ", "lower is better", "higher_is_better to false"),
    ),
    "an unknown model class": (
        {"tasks": TASKS[2:], "model": "vlm"},
        ("evaluation.model = vlm: ", "no model class 'vlm'", "Did you mean: vllm"),
    ),
    "generation settings for a task that generates nothing": (
        {"tasks": [{"task": "winogrande", "generation_kwargs": {"max_gen_toks": 8}}]},
        ("evaluation.tasks.0 = {task: winogrande,", "generates no text", "generation_kwargs do not suit it"),
    ),
}


@pytest.mark.parametrize(("evaluation", "words"), TASK_CASES.values(), ids=TASK_CASES)
def test_a_wrong_task(run, evaluation, words):
    run(words, evaluation=evaluation)


def test_a_wrong_task_with_local_data(run, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "validation.jsonl").write_text("{}\n")

    run(
        ("evaluation.tasks.0 = {task: winogrnde, ", "no task or group", "Did you mean: winogrande"),
        evaluation=_scored("winogrnde", datasets={"winogrnde": "./data"}),
    )


def test_a_metric_of_unknown_direction(run, tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\noutput_type: multiple_choice\ntest_split: test\ndoc_to_text: x\n"
        "doc_to_choice: [a, b]\ndoc_to_target: 0\nmetric_list: [{metric: !function own.score}]\n"
    )
    (tmp_path / "tasks" / "own.py").write_text("def score(*_, **__): return 1.0\n")

    run(
        ("evaluation.tasks.0 = {task: mine, ", "does not say whether more", "State `higher_is_better`"),
        evaluation=_scored("mine", "score,none", task_dirs=["./tasks"], trust_task_code=True),
    )


DATA = {
    "a missing split": (lambda folder: None, ("needs the split", "put validation.jsonl")),
    "an empty split": (lambda folder: (folder / "validation.jsonl").touch(), ("validation.jsonl", "no rows")),
    "a line that is not JSON": (
        lambda folder: (folder / "validation.jsonl").write_text("{\n"),
        ("validation.jsonl, line 1", "not JSON"),
    ),
    "a missing field": (
        lambda folder: (folder / "validation.jsonl").write_text('{"question": "a"}\n'),
        ("'mc2_targets' is undefined", "Check its data and its fields"),
    ),
}


@pytest.mark.parametrize(("damage", "words"), DATA.values(), ids=DATA)
def test_data_that_does_not_fit_its_task(run, tmp_path, damage, words):
    folder = tmp_path / "data"
    folder.mkdir()
    damage(folder)

    run(
        ("evaluation.tasks.0 = {task: truthfulqa_mc2, ", "'truthfulqa_mc2'", *words),
        evaluation=_scored("truthfulqa_mc2", datasets={"truthfulqa_mc2": "./data"}),
    )


RECIPES = {
    "an unknown key": (("parameters:", "paramters:"), ("unknown key 'paramters'", "did you mean 'parameters'?")),
    "an unknown method": (("slerp", "slurp"), ("unknown merge_method 'slurp'", "did you mean 'slerp'?")),
    "an unknown parameter": (("{t: 0.5}", "{t: 0.5, u: 1}"), ("unknown parameter of slerp 'u'", "known are")),
    "a missing parameter": (("parameters: {t: 0.5}\n", ""), ("does not set 't'", "slerp requires")),
    "a value of the wrong type": (("0.5", "half"), ("parameters.t in the recipe cannot be 'half'",)),
    "no dtype": (("dtype: {{ dtype }}", "#"), ("sets no dtype", "add `dtype: {{ dtype }}`")),
    "more layers than the models have": (("[0, {{ num_layers }}]", "[0, 9]"), ("mergekit cannot merge", "layer")),
}


@pytest.mark.parametrize(("change", "words"), RECIPES.values(), ids=RECIPES)
def test_a_recipe_that_mergekit_would_misread(run, tmp_path, change, words):
    recipe = tmp_path / "mine-recipe.yaml"
    recipe.write_text(SLERP.replace(*change))

    run((f"merge.recipe = {recipe}: ", *words), merge={"recipe": "./mine-recipe.yaml"}, evaluation={"tasks": TASKS[2:]})


@pytest.mark.parametrize("kind", ["task", "recipe"])
def test_the_real_command(
    evolve: Evolve, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    recipe = tmp_path / "mine-recipe.yaml"
    recipe.write_text(SLERP.replace("slerp", "slurp"))
    sections: dict[str, object] = {
        "task": {"evaluation": _scored("winogrnde")},
        "recipe": {"merge": {"recipe": str(recipe)}},
    }[kind]
    config = write_config(tmp_path / "mine.yaml", family, **sections)
    before = sorted(tmp_path.rglob("*"))

    done = evolve("run", config, "--run-dir", tmp_path / "run")

    assert done.returncode == 2
    assert not done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"evolve: {config}: ")
    assert ("'winogrnde'" if kind == "task" else "'slurp'") in done.stderr
    assert sorted(tmp_path.rglob("*")) == before
