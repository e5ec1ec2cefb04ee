"""Models that come with Python code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evolve.engines import inspect
from evolve.engines.custom_code import refuse_custom_code
from evolve.engines.protocols import InspectJob, TaskSpec
from evolve.errors import ModelError
from tests.support import families

TASKS = (TaskSpec("winogrande", "acc,none"),)
MAP = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}


@pytest.fixture
def model(tmp_path) -> Path:
    return families.save(tmp_path / "model")


def settings(folder: Path, file: str, **changed: object) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_a_model_that_transformers_knows_may_come_with_code(model):
    settings(model, "config.json", auto_map=MAP)
    settings(model, "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_own.Own", None]})
    refuse_custom_code({"base_model": model})


def test_a_model_that_needs_its_code_is_refused(model, tmp_path):
    settings(model, "config.json", auto_map=MAP, model_type="own")
    (model / "configuration_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    with pytest.raises(ModelError) as raised:
        inspect(InspectJob({}, TASKS, models={"foundation_models.A": model}), families.silent)
    assert str(raised.value) == (
        f"foundation_models.A = {model}: transformers does not know its model_type own, and the Python code that comes "
        "with the model is not run; set trust_remote_code: true if you trust that code, or leave the model out"
    )
    assert not (tmp_path / "ran").exists()
    job = InspectJob({}, TASKS, models={"foundation_models.A": model}, trust_remote_code=True)
    assert inspect(job, families.silent).tasks.keys() == {"winogrande"}


def test_a_tokenizer_that_needs_its_code_is_refused(model):
    own = {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}
    settings(model, "tokenizer_config.json", auto_map=own, tokenizer_class="OwnTokenizer")
    with pytest.raises(ModelError, match="does not know its tokenizer_class OwnTokenizer, and"):
        refuse_custom_code({"base_model": model})
