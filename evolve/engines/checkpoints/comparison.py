"""Flaws and differences of checkpoints that forbid a merge, and settings that a merge cannot combine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from evolve.engines.checkpoints.layout import Layout

__all__ = ["differences", "differing_settings", "flaw_of"]

_SIZES = (
    *("model_type", "architectures", "num_hidden_layers", "hidden_size", "intermediate_size"),
    *("num_attention_heads", "num_key_value_heads", "head_dim"),
)
_NO_MATTER = re.compile(
    r"_.*|.*_token_id|.*dropout.*|.*_pdrop|unsloth.*|output_.*|(id2label|label2id|problem_type|task_specific_params)"
    r"|vocab_size|(torch_)?dtype|transformers_version|use_cache|auto_map|quantization_config|tie_word_embeddings"
    r"|name_or_path|initializer_range|pretraining_tp|return_dict.*|use_return_dict|router_aux_loss_coef|.*checkpointing"
    r"|max_length|min_length|max_new_tokens|do_sample|num_beams|temperature|top_p|top_k|repetition_penalty"
)
"""Entries of config.json that training or generation uses, that say nothing, or that are checked elsewhere."""

_ROPE = ("rope_parameters", "rope_scaling")


def flaw_of(layout: Layout) -> str | None:
    """Return why a model can be neither merged nor compared, with the fix; None if nothing is wrong with it.

    A quantized model, and one whose embeddings have another number of rows than its configuration says.
    """
    if layout.setting("quantization_config") is not None:
        return "is quantized (quantization_config in config.json); give the unquantized model, or dequantize it"
    for info in layout.tensors.values():
        if info.dtype.startswith("F8"):
            return f"is quantized ({info.name} has the type {info.dtype}); give the unquantized model, or dequantize it"
    rows, size = layout.vocabulary_rows, layout.setting("vocab_size")
    if rows is not None and size is not None and rows != size:
        return f"its embeddings have {rows} rows, but vocab_size in config.json is {size}; correct config.json"
    return None


def differences(a: Layout, b: Layout) -> str | None:
    """Return the first difference that forbids merging or comparing two models, as a sentence; None without one.

    Compared are the architecture, the sizes in the configuration (where both give them), whether the embeddings are
    tied, and names and shapes of all parameters apart from the number of tokens. Constants that old exports store are
    not compared. Of pickled weights only the configuration is compared.
    """
    pair = f"{a.folder} and {b.folder} differ in"
    for key in _SIZES:
        one, other = a.setting(key), b.setting(key)
        if one is not None and other is not None and one != other:
            return f"{pair} {key}: {one} and {other}"
    if not (a.tensors and b.tensors):
        return None
    if a.tied != b.tied:
        return f"{pair} their output embeddings: only {(a if a.tied else b).folder} ties them to the input embeddings"
    ours, theirs = a.parameters(), b.parameters()
    for name in chain(ours, theirs):
        if name not in ours or name not in theirs:
            return f"{pair} their tensors: only {(a if name in ours else b).folder} has {name}"
        one, other = ours[name], theirs[name]
        free = int(a.is_vocabulary(one) and b.is_vocabulary(other))
        if len(one.shape) != len(other.shape) or one.shape[free:] != other.shape[free:]:
            return f"{pair} the shape of {name}: {list(one.shape)} and {list(other.shape)}"
    return None


def differing_settings(layouts: Mapping[str, Layout]) -> dict[str, dict[str, Any]]:
    """Return the settings of the architecture in which models differ; a merge takes them from parent 1.

    Compared are all entries of config.json (and of its `text_config`), apart from those that do not decide what the
    model computes and those that `differences` compares. A model that does not give an entry is not counted. Entries of
    `rope_parameters`, as transformers 5 writes it, are compared with the older `rope_theta` and `rope_scaling`.

    Args:
        layouts: The models by name.

    Returns:
        For each such setting, sorted by name: the value by the name of each model that gives it.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, layout in layouts.items():
        for setting, value in _settings(layout.config):
            found.setdefault(setting, {})[name] = value
    return {
        setting: values
        for setting, values in sorted(found.items())
        if any(value != other for value in values.values() for other in values.values())
    }


def _settings(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the settings of the architecture, in one form for all releases of transformers."""
    for key, value in config.items():
        if key == "text_config" and isinstance(value, Mapping):
            yield from _settings(value)
        elif key in _ROPE:
            yield from _rope(value)
        elif key not in _SIZES and not _NO_MATTER.fullmatch(key):
            yield key, value


def _rope(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the settings of rotary embeddings; a null scaling is the type `default`."""
    entries = value if isinstance(value, Mapping) else {"rope_type": "default"}
    for key, entry in entries.items():
        name = "rope_type" if key == "type" else key
        yield (name if name == "rope_theta" else f"rope_scaling.{name}"), entry
