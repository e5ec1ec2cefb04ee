"""Which changes of a configuration a run may go on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from evolve.config import Config, load_config
from evolve.errors import ConfigError
from evolve.run import inputs
from evolve.run.changes import Change, changes_between
from evolve.run.folder import RunFolder
from evolve.run.observer import Silent
from evolve.run.store import evaluation_key

# key, another value, whether the run goes on, whether scores are other scores
CASES: list[tuple[str, Any, bool, bool]] = [
    ("name", "other", True, False),
    ("device", "cpu", True, False),
    ("attempts", 5, True, False),
    ("evaluation.batch_size", 3, True, False),
    ("strategy.max_generations", 5, True, False),
    ("strategy.max_generations", 3, False, False),
    ("strategy.name", "greedy", False, False),
    ("strategy.metric", "cs", False, False),
    ("strategy.top_k", 2, False, False),
    ("strategy.pairs_per_generation", 2, False, False),
    ("strategy.stop_at_kinship", 0.5, False, False),
    ("seed", 1, False, True),
    ("base_model", "./elsewhere", False, False),
    ("foundation_models.A", "./elsewhere", False, False),
    ("merge.recipe", "linear", False, False),
    ("merge.recipe", ["slerp", "linear"], False, False),
    ("merge.dtype", "float16", False, False),
    ("merge.tokenizer", "auto", False, False),
    ("trust_remote_code", True, False, False),
    ("allow_pickled_weights", True, False, False),
    ("evaluation.limit", 5, False, True),
    ("evaluation.model", "vllm", False, True),
    ("evaluation.model_args", {"dtype": "float32"}, False, True),
    ("evaluation.apply_chat_template", True, False, True),
    ("evaluation.fewshot_as_multiturn", True, False, True),
    ("evaluation.datasets", {"alpha": "./data"}, False, False),
    ("evaluation.tasks", [{"task": "alpha"}], False, True),
    ("evaluation.tasks", [{"task": "alpha", "metric": "f1,none"}, {"task": "beta"}], False, True),
    ("evaluation.tasks", [{"task": "alpha", "num_fewshot": 2}, {"task": "beta"}], False, True),
    ("evaluation.tasks", [{"task": "alpha", "limit": 2}, {"task": "beta"}], False, True),
    ("evaluation.tasks", [{"task": "alpha", "generation_kwargs": {"max_gen_toks": 2}}, {"task": "beta"}], False, True),
    ("evaluation.tasks", [{"task": "alpha", "weight": 2}, {"task": "beta"}], False, False),
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


@pytest.mark.parametrize(("key", "value", "harmless", "_rescored"), CASES)
def test_harmless_or_not(
    *, key: str, value: Any, harmless: bool, _rescored: bool, then: Config, config: Path, tmp_path: Path
) -> None:
    changes = changes_between(then, _changed(config, key, value, tmp_path))
    assert changes
    assert all(change.key.startswith(key.split(".", maxsplit=1)[0]) for change in changes)
    assert all(change.harmless for change in changes) is harmless


@pytest.mark.parametrize(("key", "value", "_harmless", "rescored"), CASES)
def test_what_makes_another_score(
    *, key: str, value: Any, _harmless: bool, rescored: bool, then: Config, config: Path, tmp_path: Path
) -> None:
    now = _changed(config, key, value, tmp_path)
    assert (evaluation_key("id", now, {}) != evaluation_key("id", then, {})) is rescored


def test_model_and_data_make_another_score(then: Config) -> None:
    keys = {
        evaluation_key("a", then, {}),
        evaluation_key("b", then, {}),
        evaluation_key("a", then, {"alpha/test": "0"}),
    }
    assert len(keys) == 3


def test_a_limit_is_the_same_wherever_it_is_given(config: Path, tmp_path: Path) -> None:
    everywhere = _changed(config, "evaluation.limit", 7, tmp_path)
    tasks = [{"task": "alpha", "limit": 7}, {"task": "beta", "limit": 7}]
    each = _changed(config, "evaluation.tasks", tasks, tmp_path)
    assert evaluation_key("id", everywhere, {}) == evaluation_key("id", each, {})


def test_nothing_changes_by_a_way_through_the_journal(then: Config) -> None:
    assert changes_between(Config.model_validate(then.model_dump(mode="json")), then) == []


def test_keys_are_those_of_the_file(then: Config, config: Path, tmp_path: Path) -> None:
    tasks = [{"task": "alpha", "weight": 2}, {"task": "beta"}]
    assert changes_between(then, _changed(config, "evaluation.tasks", tasks, tmp_path)) == [
        Change("evaluation.tasks.0.weight", 1.0, 2.0, harmless=False)
    ]


def test_a_run_goes_on_with_the_engines_that_it_began_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Origin:
        versions: ClassVar[dict[str, str]] = {"mergekit": "0.0.1", "evolve": "0.0.1"}

    class Tree:
        origin = Origin()

    monkeypatch.setattr(inputs, "version", lambda name: "0.0.2")
    with pytest.raises(ConfigError, match=r"began with mergekit 0\.0\.1, but 0\.0\.2 is installed.*mergekit==0\.0\.1"):
        inputs.refuse_changed_inputs(Tree(), RunFolder(tmp_path), Silent())  # type: ignore[arg-type]
