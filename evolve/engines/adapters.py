"""LoRA adapters: checked from their files alone, and merged into the model that they were trained on."""

from __future__ import annotations

import re
import shutil
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolve.engines.checkpoints import (
    TORCH_NAMES,
    Layout,
    NotFiniteError,
    TensorInfo,
    differences,
    read_json_object,
    read_layout,
    read_tensors,
    verify,
)
from evolve.engines.protocols import AdapterJob, MergeResult, Report
from evolve.engines.quiet import quiet_transformers
from evolve.errors import ModelError
from evolve.files import shown

__all__ = ["ADAPTER_FILES", "check_adapter", "merge_adapter"]

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ADAPTER_FILES = (_CONFIG, _WEIGHTS)
"""The files that make an adapter."""

_PREFIX = "base_model.model."  # peft's, before the name of the module
_LORA = re.compile(
    r"(?P<module>.+)\.(?P<kind>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(\.weight|\.bias)?"
)
_NO_MERGE = (
    "alora_invocation_tokens",
    "layer_replication",
)  # peft applies these when it runs a model; they are not in its weights
_TOKENIZER = re.compile(
    r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template)\.json"
    r"|.*\.(model|tiktoken)|merges\.txt|vocab\.txt|chat_template\.jinja"
)
_VOCABULARY = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_GENERATION = "generation_config.json"


def check_adapter(folder: Path, model: Layout) -> None:
    """Make sure, from its files alone, that peft can merge an adapter into a model.

    Raises:
        ModelError: A file is missing or damaged, it is not a LoRA adapter of a language model, or its tensors do not
            fit those of the model.
    """
    config = _read_config(folder)
    _check_kind(folder, config)
    tensors = _read_weights(folder)
    rows = _new_rows(tensors, model)
    if config.get("target_parameters"):  # experts, which peft and the checkpoint name differently
        return
    trained_on = config.get("base_model_name_or_path")
    fix = "give the model that it was trained on" + (f" ({shown(trained_on)})" if trained_on else "")
    for name, info in tensors.items():
        found = _LORA.fullmatch(name.removeprefix(_PREFIX))
        misfit = found and _misfit(found, info, model, rows, transposed=bool(config.get("fan_in_fan_out")))
        if misfit:
            raise ModelError(f"{folder} does not fit {model.folder}: {misfit}; {fix}")


def merge_adapter(job: AdapterJob, report: Report) -> MergeResult:
    """Merge an adapter into its model with peft, on the CPU, and verify the result.

    The weights keep the model's type. The tokenizer is the adapter's if it has one, otherwise the model's. The
    generation settings are the model's.

    Raises:
        ModelError: The adapter does not fit the model or changes nothing, or the result does not load or is not finite.
        MemoryError: The model does not fit into main memory.
    """
    started = time.monotonic()
    layout = read_layout(job.model)
    check_adapter(job.adapter, layout)
    _refuse_idle(job.adapter)
    with quiet_transformers(), warnings.catch_warnings():
        _merge(job, layout, report)
    _copy_companions(job)
    difference = differences(layout, read_layout(job.output))
    if difference is not None:
        raise ModelError(f"{job.adapter}: merged into {job.model} it gives a model of another form: {difference}")
    try:
        files = verify(job.output, trust_remote_code=job.trust_remote_code, report=report)
    except NotFiniteError as error:
        raise ModelError(
            f"{job.adapter}: merged into {job.model} it gives numbers that are not finite, first in {error.tensor}"
        ) from error
    except ModelError as error:
        raise ModelError(f"{job.adapter}: merged into {job.model} it gives an unusable model: {error}") from error
    return MergeResult(sum(size for size, _ in files.values()), time.monotonic() - started, files)


# --------------------------------------------------------------------------------------------------------- checks


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    if not path.is_file():
        raise ModelError(f"{folder} has no {_CONFIG}: give the folder that peft's save_pretrained wrote")
    return read_json_object(path)


def _check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    kind, task = config.get("peft_type"), config.get("task_type")
    if kind != "LORA":
        raise ModelError(
            f"{folder} is an adapter of type {shown(kind)}: only LORA can be merged into a model's weights here"
        )
    if task not in (None, "CAUSAL_LM"):
        raise ModelError(f"{folder} is an adapter for {shown(task)}: give one of a language model (CAUSAL_LM)")
    for setting in _NO_MERGE:
        if config.get(setting):
            raise ModelError(f"{folder} is an adapter with {setting}, which cannot be merged into a model's weights")


def _read_weights(folder: Path) -> dict[str, TensorInfo]:
    path = folder / _WEIGHTS
    if path.is_file():
        return read_tensors(path)
    if (folder / "adapter_model.bin").is_file():
        raise ModelError(
            f"{folder} holds pickled weights (adapter_model.bin), which can run code when opened and are refused: load "
            "it with peft and save it again by save_pretrained(..., safe_serialization=True)"
        )
    raise ModelError(f"{folder} has no {_WEIGHTS}: download the adapter again")


def _new_rows(tensors: Mapping[str, TensorInfo], model: Layout) -> int | None:
    """Return the number of tokens if the adapter has embeddings of another size than the model's; otherwise None.

    Raises:
        ModelError: The adapter lacks some of the embeddings, so that their new rows would be untrained.
    """
    inner = {name.removeprefix(_PREFIX): info for name, info in tensors.items()}
    vocabulary = [name for name, info in model.parameters().items() if model.is_vocabulary(info)]
    rows = {inner[name].rows for name in vocabulary if name in inner and inner[name].rows != model.tensors[name].rows}
    if not rows:
        return None
    if len(rows) > 1 or not all(name in inner for name in vocabulary):
        raise ModelError(
            f"the adapter changes the number of tokens of {model.folder}, but does not have all embeddings: save it "
            "again with save_embedding_layers=True"
        )
    return rows.pop()


def _misfit(found: re.Match[str], info: TensorInfo, model: Layout, rows: int | None, *, transposed: bool) -> str | None:
    """Return why a tensor of the adapter does not fit the weight of its module; None if it fits."""
    weight = _weight_of(found["module"], model)
    if weight is None:
        return f"it adapts {shown(found['module'])}, which the model does not have"
    outputs, inputs = (*weight.shape, 0, 0)[:2]
    if rows is not None and model.is_vocabulary(weight):
        outputs = rows
    if transposed:
        outputs, inputs = inputs, outputs
    # An embedding is the transpose of a linear layer.
    sizes = {"lora_A": inputs, "lora_B": outputs, "lora_embedding_A": outputs, "lora_embedding_B": inputs}
    size = sizes.get(found["kind"])
    if size is None or len(info.shape) != 2 or info.shape[1 if found["kind"].endswith("_A") else 0] == size:
        return None
    return f"{shown(info.name)} has the shape {list(info.shape)}, and {weight.name} has {list(weight.shape)}"


def _weight_of(module: str, model: Layout) -> TensorInfo | None:
    """Return the weight of a module; old checkpoints omit the first parts of its name."""
    parts = f"{module}.weight".split(".")
    names = (".".join(parts[start:]) for start in range(len(parts) - 1))
    return next((model.tensors[name] for name in names if name in model.tensors), _tied_weight(module, model))


def _tied_weight(module: str, model: Layout) -> TensorInfo | None:
    """Return the input embeddings for output embeddings that are tied to them and not in the file."""
    if not model.tied or module != "lm_head":
        return None
    return next((info for info in model.parameters().values() if model.is_vocabulary(info)), None)


def _refuse_idle(folder: Path) -> None:
    """Raise if an adapter changes nothing, because the delta of its model would be zero; or is not finite."""
    import torch
    from safetensors import safe_open

    idle = True
    with safe_open(folder / _WEIGHTS, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            tensor = file.get_tensor(name)
            if not bool(torch.isfinite(tensor).all()):
                raise ModelError(f"{folder} holds numbers that are not finite, first in {name}: give another adapter")
            # The product of A and B is zero if either is. A layer that was saved completely may change the model.
            starts_at_zero = "lora_B" in name or "lora_embedding_A" in name
            changes = bool(tensor.any()) if starts_at_zero else not _LORA.fullmatch(name.removeprefix(_PREFIX))
            idle = idle and not changes
    if idle:
        raise ModelError(
            f"{folder} changes nothing, because it was never trained: give another adapter, or leave it out"
        )


# ---------------------------------------------------------------------------------------------------------- merge


def _merge(job: AdapterJob, layout: Layout, report: Report) -> None:
    """Merge with peft, and save with transformers."""
    import peft
    import torch
    import transformers
    from safetensors import SafetensorError

    warnings.simplefilter("ignore")
    # where the file lacks weights, peft would use its initial ones
    warnings.filterwarnings("error", message="Found missing adapter keys", category=UserWarning)
    report("loading the model", 0, 3)
    dtype = getattr(torch, job.dtype or _own_type(layout))
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            job.model, dtype=dtype, trust_remote_code=job.trust_remote_code
        )
        rows = _new_rows(_read_weights(job.adapter), layout)
        if rows is not None:
            model.resize_token_embeddings(rows, mean_resizing=False)
        report("merging the adapter", 1, 3)
        adapted = peft.PeftModel.from_pretrained(model, job.adapter)
        merged = adapted.merge_and_unload()
        report("saving the model", 2, 3)
        merged.save_pretrained(job.output)
    except UserWarning as error:
        raise ModelError(
            f"{job.adapter} lacks weights of modules that its {_CONFIG} names: download it again"
        ) from error
    except (ImportError, KeyError, NotImplementedError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{job.adapter}: peft cannot merge it into {job.model}: {words}") from error


def _own_type(layout: Layout) -> str:
    """Return the floating type of most of the weights."""
    sizes: dict[str, int] = {}
    for info in layout.parameters().values():
        sizes[info.dtype] = sizes.get(info.dtype, 0) + info.elements
    kind = max(sizes, key=lambda dtype: sizes[dtype], default="none")
    if kind not in TORCH_NAMES or layout.config.get("quantization_config"):
        raise ModelError(f"{layout.folder} is quantized ({kind}): give the model in bfloat16, float16 or float32")
    return TORCH_NAMES[kind]


def _copy_companions(job: AdapterJob) -> None:
    """Copy the tokenizer, the generation settings, and the model's own code."""
    own = any((job.adapter / name).is_file() for name in _VOCABULARY)
    for path in sorted((job.adapter if own else job.model).iterdir()):
        if path.is_file() and _TOKENIZER.fullmatch(path.name):
            shutil.copyfile(path, job.output / path.name)
    for path in sorted(job.model.glob("*.py")):
        shutil.copyfile(path, job.output / path.name)
    (job.output / _GENERATION).unlink(missing_ok=True)
    if (job.model / _GENERATION).is_file():
        shutil.copyfile(job.model / _GENERATION, job.output / _GENERATION)
