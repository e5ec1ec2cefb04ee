"""Inspection of models with transformers and of the device with torch, before a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolve.engines.checkpoints import check_tokenizer, read_json_object
from evolve.engines.devices import device_name
from evolve.engines.protocols import InspectModelsJob, ModelFacts, Report
from evolve.engines.quiet import loading_errors, quiet_transformers
from evolve.errors import ModelError

__all__ = ["inspect_models"]


def inspect_models(job: InspectModelsJob, report: Report) -> Mapping[str, ModelFacts]:
    """Find the device, refuse custom code that is not trusted, and return the number of layers of each model.

    Many models bring code for releases of transformers that did not know them yet. Where transformers knows them now,
    that code is not needed and never run.

    Raises:
        ModelError: A model can only be loaded by its own code, which may not run, or transformers cannot read its
            configuration, or the tokenizers library its tokenizer.json.
        ConfigError: There is no such device.
    """
    device_name(job.device)
    facts = {}
    for number, (name, folder) in enumerate(job.models.items()):
        report("inspecting models", number, len(job.models))
        _check_tokenizer(name, folder)
        if not job.trust_remote_code:
            _refuse_custom_code(name, folder)
        facts[name] = ModelFacts(_layers(name, folder, trust_remote_code=job.trust_remote_code))
    return facts


def _check_tokenizer(name: str, folder: Path) -> None:
    try:
        check_tokenizer(folder)
    except ModelError as error:
        raise ModelError(f"{name} = {folder}: {error}") from error


def _refuse_custom_code(name: str, folder: Path) -> None:
    """Raise ModelError if transformers has no built-in classes for a model and its tokenizer."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    config, tokenizer = _settings(folder / "config.json"), _settings(folder / "tokenizer_config.json")
    own = []
    if config.get("auto_map") and str(config.get("model_type")) not in CONFIG_MAPPING:
        own.append(f"its model_type {config.get('model_type')}")
    kind = str(tokenizer.get("tokenizer_class"))
    code = tokenizer.get("auto_map")
    if isinstance(code, dict | list) and "AutoTokenizer" in code and tokenizer_class_from_name(kind) is None:
        own.append(f"its tokenizer_class {kind}")
    if own:
        raise ModelError(
            f"{name} = {folder}: transformers does not know {' and '.join(own)}, and the Python code that comes "
            "with the model is not run; set trust_remote_code: true if you trust that code, or leave the model out"
        )


def _layers(name: str, folder: Path, *, trust_remote_code: bool) -> int | None:
    """Return the number of layers by transformers' configuration class, which knows what each family calls it."""
    from transformers import AutoConfig

    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except OSError:  # code of the model that is on the Hub only
        return None
    except loading_errors() as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{name} = {folder}: transformers cannot read its config.json: {words}") from error
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    return layers if isinstance(layers, int) and layers > 0 else None


def _settings(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.is_file() else {}
