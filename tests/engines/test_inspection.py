"""Facts about models from transformers: their layers, and whether they need custom code."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from evolve.engines import inspect_models
from evolve.engines.protocols import InspectModelsJob, ModelFacts
from evolve.errors import ConfigError, ModelError
from tests.support import families

MAP = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
OWN = """
from transformers import PreTrainedConfig


class OwnConfig(PreTrainedConfig):
    model_type = "own"
    attribute_map = {"num_hidden_layers": "depth"}

    def __init__(self, depth=1, **rest):
        self.depth = depth
        super().__init__(**rest)
"""


@pytest.fixture
def model(tmp_path) -> Path:
    return families.save(tmp_path / "model")


@pytest.fixture
def configured(tmp_path):
    """Writes a folder with nothing but a config.json."""

    def write(**entries: object) -> Path:
        folder = tmp_path / "configured"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(entries))
        return folder

    return write


def settings(folder: Path, file: str, **changed: object) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def inspected(folder: Path, **options: object) -> ModelFacts:
    job = InspectModelsJob({"foundation_models.A": folder}, **options)
    return inspect_models(pickle.loads(pickle.dumps(job)), families.silent)["foundation_models.A"]


# ------------------------------------------------------------------------------------------------------------ layers


@pytest.mark.parametrize(
    ("entries", "layers"),
    [
        ({"model_type": "mistral", "num_hidden_layers": 5}, 5),
        ({"model_type": "gpt2", "n_layer": 3}, 3),
        ({"model_type": "bloom", "n_layer": 4}, 4),
        ({"model_type": "gpt_neo", "num_layers": 2, "attention_types": [[["global"], 2]]}, 2),
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "num_hidden_layers": 7}}, 7),
        ({"model_type": "llama"}, 32),  # the default of the class
        ({"model_type": "clip"}, 12),
        ({"model_type": "mobilenet_v1"}, None),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else str(value),
)
def test_layers_are_those_of_the_class_of_the_configuration(configured, entries, layers):
    assert inspected(configured(**entries)) == ModelFacts(layers)


def test_facts_have_the_keys_of_the_models(model, configured):
    reports = []
    models = {"base_model": model, "foundation_models.B": configured(model_type="gpt2", n_layer=9)}
    facts = inspect_models(InspectModelsJob(models), lambda *words: reports.append(words))
    assert facts == {"base_model": ModelFacts(2), "foundation_models.B": ModelFacts(9)}
    assert reports == [("inspecting models", 0, 2), ("inspecting models", 1, 2)]


@pytest.mark.parametrize("entries", [{"model_type": "no-such"}, {}, {"model_type": "llama", "num_hidden_layers": "x"}])
def test_a_configuration_that_transformers_cannot_read_is_refused(configured, entries):
    with pytest.raises(ModelError, match=r"^foundation_models.A = /.*: transformers cannot read its config.json: "):
        inspected(configured(**entries))


def test_a_missing_device_is_refused(model):
    with pytest.raises(ConfigError, match=r"device = cuda:99: is missing"):
        inspected(model, device="cuda:99")


# ------------------------------------------------------------------------------------------------------- custom code


def test_a_model_that_transformers_knows_may_come_with_code(model):
    settings(model, "config.json", auto_map=MAP)
    settings(model, "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_own.Own", None]})
    assert inspected(model) == ModelFacts(2)


def test_a_model_that_needs_its_code_is_refused(model, tmp_path):
    settings(model, "config.json", auto_map=MAP, model_type="own")
    (model / "configuration_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    with pytest.raises(ModelError) as raised:
        inspected(model)
    assert str(raised.value) == (
        f"foundation_models.A = {model}: transformers does not know its model_type own, and the Python code that comes "
        "with the model is not run; set trust_remote_code: true if you trust that code, or leave the model out"
    )
    assert not (tmp_path / "ran").exists()


def test_code_that_is_trusted_tells_the_layers(configured, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = configured(model_type="own", depth=6, auto_map={"AutoConfig": "configuration_own.OwnConfig"})
    (folder / "configuration_own.py").write_text(OWN)
    assert inspected(folder, trust_remote_code=True) == ModelFacts(6)


def test_layers_of_a_model_whose_code_is_on_the_hub_only_are_unknown(configured):
    folder = configured(model_type="own", auto_map={"AutoConfig": "owner/code--configuration_own.OwnConfig"})
    assert inspected(folder, trust_remote_code=True) == ModelFacts(None)


def test_a_tokenizer_that_needs_its_code_is_refused(model):
    own = {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}
    settings(model, "tokenizer_config.json", auto_map=own, tokenizer_class="OwnTokenizer")
    with pytest.raises(ModelError, match="does not know its tokenizer_class OwnTokenizer, and"):
        inspected(model)


# --------------------------------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize("entry", [{"model": None}, {"model": []}, {"added_tokens": 5}, {"pre_tokenizer": 7}])
def test_a_tokenizer_that_the_library_does_not_read(model, entry):
    settings(model, "tokenizer.json", **entry)
    with pytest.raises(ModelError, match=r"foundation_models.A = .*: the tokenizer in .* cannot be read"):
        inspected(model)


@pytest.mark.parametrize(
    ("file", "entry"),
    [
        ("config.json", {"num_attention_heads": 0}),
        ("config.json", {"auto_map": MAP, "model_type": ["own"]}),
        ("tokenizer_config.json", {"auto_map": 3}),
    ],
)
def test_settings_of_a_wrong_type_or_size(model, file, entry):
    settings(model, file, **entry)
    try:
        inspected(model)
    except ModelError as error:
        assert str(error).startswith("foundation_models.A = ")  # noqa: PT017 - both outcomes are right
