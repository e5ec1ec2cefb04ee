"""The reference of the configuration: complete, and equal to the page in docs/."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import yaml

import evolve
from evolve.config import Config, dump_config
from evolve.config.reference import reference_table, settings

DOCS = Path(evolve.__file__).parents[1] / "docs"


def test_the_page_has_the_table_of_the_present_schema():
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    generate = runpy.run_path(str(DOCS / "generate.py"))["with_table"]

    assert reference_table() in page
    assert generate(page) == page


def test_every_key_of_a_complete_configuration_is_in_the_reference():
    config = Config(base_model="base", foundation_models={"A": "a", "B": {"model": "b", "adapter": "x"}})
    found = {setting.key for setting in settings()}

    assert set(_keys(yaml.safe_load(dump_config(config)))) <= found


def _keys(value, above=""):
    """Yield all keys of a nested mapping, in the form of the reference."""
    if above in {"evaluation.model_args", "evaluation.tasks.<n>.generation_kwargs"}:
        return
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        name = "<name>" if above == "foundation_models" else "<n>" if isinstance(value, list) else step
        key = f"{above}.{name}" if above else name
        if name not in {"<name>", "<n>"}:
            yield key
        yield from _keys(inner, key)


@pytest.mark.parametrize("setting", [*settings()], ids=lambda setting: setting.key)
def test_every_key_has_a_meaning_and_its_valid_values(setting):
    assert setting.meaning.endswith(".")
    assert setting.meaning[0] in "`ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    assert setting.values
    assert not setting.values.endswith(".")
    assert f"| `{setting.name}` |" in reference_table()


def test_defaults_are_those_of_the_schema():
    config = Config(base_model="base", foundation_models={"A": "a", "B": "b"})
    defaults = {setting.key: setting.default for setting in settings()}

    assert defaults["base_model"] is None
    assert yaml.safe_load(defaults["evaluation.model_args"]) == config.evaluation.model_args
    assert [task["task"] for task in yaml.safe_load(defaults["evaluation.tasks"])] == [
        task.task for task in config.evaluation.tasks
    ]
    for key in ("strategy.top_k", "strategy.stop_at_kinship", "merge.recipe", "evaluation.limit"):
        section, name = key.split(".")
        assert yaml.safe_load(defaults[key]) == getattr(getattr(config, section), name)
