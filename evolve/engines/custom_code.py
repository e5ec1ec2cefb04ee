"""Models that bring Python code of their own, which runs only where the user trusts it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolve.errors import ModelError

__all__ = ["refuse_custom_code"]


def refuse_custom_code(models: Mapping[str, Path]) -> None:
    """Make sure that transformers has classes of its own for all models and tokenizers. Imports transformers.

    Many models bring code for releases of transformers that did not know them yet; where it knows them now, that code
    is not needed and never run.

    Args:
        models: Checkpoint folders, by the words that a message names them by.

    Raises:
        ModelError: A model can only be loaded by its own code.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    for name, folder in models.items():
        config, tokenizer = _settings(folder / "config.json"), _settings(folder / "tokenizer_config.json")
        own = []
        if config.get("auto_map") and config.get("model_type") not in CONFIG_MAPPING:
            own.append(f"its model_type {config.get('model_type')}")
        kind = str(tokenizer.get("tokenizer_class"))
        if "AutoTokenizer" in (tokenizer.get("auto_map") or {}) and tokenizer_class_from_name(kind) is None:
            own.append(f"its tokenizer_class {kind}")
        if own:
            raise ModelError(
                f"{name} = {folder}: transformers does not know {' and '.join(own)}, and the Python code that comes "
                "with the model is not run; set trust_remote_code: true if you trust that code, or leave the model out"
            )


def _settings(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
