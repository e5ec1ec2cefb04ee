"""Changes of a configuration with which a run may resume."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from evolve.config import Config, load_config, scoring_settings
from evolve.errors import ConfigError
from evolve.run.inputs import resume
from evolve.run.inputs.changes import Change, Effect, changes_between, with_recorded_sharing
from evolve.run.journal import read_journal, tree_of
from evolve.run.tasks import score_key

GOLDEN = Path(__file__).parents[1] / "golden"
VERSIONS = {"lm_eval": "0.4.13", "transformers": "5.23.0"}

# key, new value, effect of the change, whether the keys of the scores on task alpha change
CASES: list[tuple[str, Any, Effect, bool]] = [
    ("name", "other", "none", False),
    ("device", "cpu", "none", False),
    ("attempts", 5, "none", False),
    ("evaluation.batch_size", 3, "none", False),
    ("strategy.max_generations", 5, "none", False),
    ("strategy.max_generations", 3, "results", False),
    ("strategy.name", "greedy", "results", False),
    ("strategy.metric", "cs", "results", False),
    ("strategy.top_k", 2, "results", False),
    ("strategy.pairs_per_generation", 2, "results", False),
    ("strategy.stop_at_kinship", 0.5, "results", False),
    ("seed", 1, "results", True),
    ("base_model", "./elsewhere", "place", False),
    ("foundation_models.A", "./elsewhere", "place", False),
    ("foundation_models.A", {"model": "./base", "adapter": "./a"}, "results", False),
    ("foundation_models.D", "./elsewhere", "results", False),
    ("merge.recipe", "linear", "results", False),
    ("merge.recipe", ["slerp", "linear"], "results", False),
    ("merge.dtype", "float16", "results", False),
    ("merge.tokenizer", "auto", "results", False),
    ("trust_remote_code", True, "results", False),
    ("allow_pickled_weights", True, "results", False),
    ("evaluation.limit", 5, "results", True),
    ("evaluation.model", "vllm", "results", True),
    ("evaluation.model_args", {"dtype": "float32"}, "results", True),
    ("evaluation.model_args", {"dtype": "bfloat16", "tokenizer": "./elsewhere"}, "results", True),
    ("evaluation.trust_task_code", True, "none", False),
    ("evaluation.apply_chat_template", True, "results", True),
    ("evaluation.fewshot_as_multiturn", True, "results", True),
    ("evaluation.prefix_sharing", "off", "results", True),
    ("evaluation.datasets", {"alpha": "./data"}, "place", False),
    ("evaluation.task_dirs", ["./tasks"], "place", False),
    ("evaluation.tasks", [{"task": "alpha"}], "results", False),
    ("evaluation.tasks", [{"task": "alpha"}, {"task": "beta"}, {"task": "gamma"}], "results", False),
    ("evaluation.tasks", [{"task": "alpha", "metric": "f1,none"}, {"task": "beta"}], "results", True),
    ("evaluation.tasks", [{"task": "alpha", "num_fewshot": 2}, {"task": "beta"}], "results", True),
    ("evaluation.tasks", [{"task": "alpha", "fewshot": "first_n"}, {"task": "beta"}], "results", True),
    ("evaluation.tasks", [{"task": "alpha", "limit": 2}, {"task": "beta"}], "results", True),
    (
        "evaluation.tasks",
        [{"task": "alpha", "generation_kwargs": {"max_gen_toks": 2}}, {"task": "beta"}],
        "results",
        True,
    ),
    ("evaluation.tasks", [{"task": "alpha", "weight": 2}, {"task": "beta"}], "results", False),
]


def _changed(path: Path, key: str, value: Any, target: Path) -> Config:
    raw = yaml.safe_load(path.read_text())
    section, *rest = key.split(".")
    if rest:
        raw.setdefault(section, {})[rest[0]] = value
    else:
        raw[section] = value
    (target / "config.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    return load_config(target / "config.yaml")


@pytest.fixture
def then(config: Path, tmp_path: Path) -> Config:
    return _changed(config, "seed", 0, tmp_path)


@pytest.mark.parametrize(("key", "value", "effect", "_rescored"), CASES)
def test_effect_of_a_change(
    *, key: str, value: Any, effect: Effect, _rescored: bool, then: Config, config: Path, tmp_path: Path
) -> None:
    changes = changes_between(then, _changed(config, key, value, tmp_path))
    assert changes
    assert all(change.key.startswith(key.split(".", maxsplit=1)[0]) for change in changes)
    assert {change.effect for change in changes} == {effect}


@pytest.mark.parametrize(("key", "value", "_effect", "rescored"), CASES)
def test_settings_that_change_the_key_of_a_score(
    *, key: str, value: Any, _effect: Effect, rescored: bool, then: Config, config: Path, tmp_path: Path
) -> None:
    now = _changed(config, key, value, tmp_path)
    assert (_key(now) != _key(then)) is rescored


def _key(
    config: Config, *, model: str = "id", versions: Mapping[str, str] = VERSIONS, data: dict[str, str] | None = None
) -> str:
    """Return the key of the score on task alpha, at any position in the list."""
    task = next(task for task in config.evaluation.tasks if task.task == "alpha")
    return score_key(model, config, task, versions=versions, data=data or {})


def test_a_moved_file_of_a_model_argument_is_compared_by_content(config: Path, tmp_path: Path) -> None:
    def arguments(**values: Any) -> Config:
        return _changed(config, "evaluation.model_args", values, tmp_path)

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = arguments(tokenizer="one", more={"x": "./one"}), arguments(tokenizer="two", more={"x": "./two"})
    keys = ["evaluation.model_args.tokenizer", "evaluation.model_args.more.x"]
    assert [(change.key, change.effect) for change in changes_between(one, two)] == [(key, "place") for key in keys]
    data = {"model_args.tokenizer/tokenizer.json": "0", "model_args.more.x/a": "1"}
    assert _key(one, data=data) == _key(two, data=data)
    assert _key(one, data=data) != _key(one, data=data | {"model_args.more.x/a": "2"})
    assert changes_between(arguments(tokenizer="org/a"), arguments(tokenizer="org/b"))[0].effect == "results"
    assert changes_between(arguments(prefix="/a/"), arguments(prefix="/b/"))[0].effect == "results"


def test_model_data_and_version_change_the_key(then: Config) -> None:
    keys = {
        _key(then),
        _key(then, model="other"),
        _key(then, versions={**VERSIONS, "lm_eval": "0.4.14"}),
        _key(then, versions={**VERSIONS, "transformers": "5.24.0"}),
        _key(then, data={"alpha/test.jsonl": "0"}),
        _key(then, data={"task_dirs.0/alpha.yaml": "0"}),
        _key(then, data={"alpha/reads//data/x.txt": "0"}),
        _key(then, data={"alpha/revision": "0"}),
    }
    assert len(keys) == 8
    assert _key(then, data={"beta/test.jsonl": "0"}) == _key(then)


def test_each_task_has_its_own_key(then: Config) -> None:
    alpha, beta = then.evaluation.tasks
    assert score_key("id", then, alpha, versions={"lm_eval": "1"}, data={}) != score_key(
        "id", then, beta, versions={"lm_eval": "1"}, data={}
    )


def test_a_limit_for_all_tasks_equals_the_same_limit_for_each_task(config: Path, tmp_path: Path) -> None:
    everywhere = _changed(config, "evaluation.limit", 7, tmp_path)
    tasks = [{"task": "alpha", "limit": 7}, {"task": "beta", "limit": 7}]
    each = _changed(config, "evaluation.tasks", tasks, tmp_path)
    assert _key(everywhere) == _key(each)


@pytest.mark.parametrize(
    ("metric", "then", "now", "effect"),
    [
        ("pcc", 0.8, 0.9, "none"),
        ("pcc", 0.8, None, "none"),
        ("pcc", 0.9, 0.8, "results"),
        ("pcc", None, 0.8, "results"),
        ("ed", 5.0, 3.0, "none"),
        ("ed", 5.0, None, "none"),
        ("ed", 3.0, 5.0, "results"),
    ],
)
def test_the_stop_may_be_later_but_not_earlier(
    *, metric: str, then: float | None, now: float | None, effect: Effect, config: Path, tmp_path: Path
) -> None:
    def strategy(threshold: float | None) -> Config:
        return _changed(config, "strategy", {"metric": metric, "stop_at_kinship": threshold}, tmp_path)

    assert [change.effect for change in changes_between(strategy(then), strategy(now))] == [effect]


def test_the_journal_preserves_the_configuration(then: Config) -> None:
    assert changes_between(Config.model_validate(then.model_dump(mode="json")), then) == []


def test_the_order_of_the_tasks_has_no_effect(then: Config, config: Path, tmp_path: Path) -> None:
    now = _changed(config, "evaluation.tasks", [{"task": "beta"}, {"task": "alpha"}], tmp_path)
    assert changes_between(then, now) == []


def test_keys_name_the_task(then: Config, config: Path, tmp_path: Path) -> None:
    tasks = [{"task": "alpha", "weight": 2}, {"task": "beta"}]
    assert changes_between(then, _changed(config, "evaluation.tasks", tasks, tmp_path)) == [
        Change("evaluation.tasks.alpha.weight", 1.0, 2.0, effect="results")
    ]


def test_a_run_resumes_only_with_the_same_versions_of_the_engines(
    monkeypatch: pytest.MonkeyPatch, then: Config, config: Path, tmp_path: Path
) -> None:
    class Origin:
        versions: ClassVar[dict[str, str]] = {"mergekit": "0.0.1", "evolve": "0.0.1"}

    class Tree:
        origin = Origin()
        config = then

    monkeypatch.setattr(resume, "version", lambda name: "0.0.2")
    with pytest.raises(ConfigError, match=r"began with mergekit 0\.0\.1, but 0\.0\.2 is installed.*mergekit==0\.0\.1"):
        resume.refuse_other_engines(Tree())  # type: ignore[arg-type]
    Origin.versions = {"mergekit": "0.0.2", "transformers": "0.0.1"}
    with pytest.raises(ConfigError, match=r"began with transformers 0\.0\.1, but 0\.0\.2 is installed"):
        resume.refuse_other_engines(Tree())  # type: ignore[arg-type]
    Tree.config = _changed(config, "evaluation.prefix_sharing", "off", tmp_path)
    resume.refuse_other_engines(Tree())  # type: ignore[arg-type]


def test_scores_without_shared_prefixes_keep_the_key_that_they_had_before(config: Path, tmp_path: Path) -> None:
    """Neither a key of the configuration nor a version that changes no answer is part of it."""
    off = _changed(config, "evaluation.prefix_sharing", "off", tmp_path)
    task = off.evaluation.tasks[0]
    settings = scoring_settings(off, task, versions=VERSIONS, data={})
    assert {"prefix_sharing", "fewshot", "transformers"}.isdisjoint(settings)
    assert _key(off) == _key(off, versions={**VERSIONS, "transformers": "5.24.0"})
    vllm = _changed(config, "evaluation.model", "vllm", tmp_path)
    assert "prefix_sharing" not in scoring_settings(vllm, task, versions=VERSIONS, data={})
    shared = scoring_settings(_changed(config, "seed", 0, tmp_path), task, versions=VERSIONS, data={})
    assert shared["prefix_sharing"] == {"version": 1, "transformers": "5.23.0"}


def test_a_run_of_before_prefixes_were_shared_keeps_lm_evals_own_answers(config: Path, tmp_path: Path) -> None:
    """Its configuration lacks the key; one with which it resumes may leave it out too, but not ask for `auto`."""
    tree = tree_of(read_journal(GOLDEN / "journal-2.jsonl"), GOLDEN)
    assert "prefix_sharing" not in (GOLDEN / "journal-2.jsonl").read_text()
    assert tree.config.evaluation.prefix_sharing == "off"
    unstated = _changed(config, "seed", 0, tmp_path)
    assert unstated.evaluation.prefix_sharing == "auto"
    assert with_recorded_sharing(tree, unstated).evaluation.prefix_sharing == "off"
    stated = _changed(config, "evaluation.prefix_sharing", "auto", tmp_path)
    assert with_recorded_sharing(tree, stated).evaluation.prefix_sharing == "auto"
