"""The configuration and the tensors of a checkpoint, from its JSON files and the headers of its safetensors files.

So models of any size are checked in milliseconds and without torch. Pickled weights are never opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolve.engines.checkpoints.experts import unstacked
from evolve.engines.checkpoints.files import INDEX, SINGLE, is_pickled, read_index, read_json_object
from evolve.engines.checkpoints.headers import TensorInfo, read_tensors
from evolve.errors import ModelError
from evolve.files import shown

__all__ = ["Layout", "is_constant", "is_head", "read_config", "read_layout"]

_CONSTANTS = ("inv_freq", "masked_bias", "cos_cached", "sin_cached")  # last part of the name
_MASKED = ("attention", "attn")  # modules whose causal mask is stored as `bias` in old exports
_EMBEDDINGS = ("embed_tokens", "embed_in", "wte", "word_embeddings", "tok_embeddings")
_HEADS = ("lm_head", "embed_out")
_TIED_BY_DEFAULT = ("gemma", "gemma2", "gemma3", "gemma3_text", "gpt2")  # their config.json may omit it


@dataclass(frozen=True)
class Layout:
    """A checkpoint as its configuration and the headers of its weight files describe it.

    Attributes:
        folder: The checkpoint folder.
        config: Its config.json.
        tensors: All its tensors by name, in the order of their files and offsets. Empty where the weights are pickled,
            because those are not opened.
        files: Sizes in bytes of its weight files, by name.
    """

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    files: Mapping[str, int]

    def setting(self, key: str) -> Any:
        """Return an entry of the configuration, or of its `text_config` in multimodal models; None without one."""
        text = self.config.get("text_config")
        value = self.config.get(key)
        return text.get(key) if value is None and isinstance(text, Mapping) else value

    @property
    def tied(self) -> bool:
        """Whether input and output embeddings are one tensor.

        They are if the weights hold no output embeddings, or if the configuration ties them. Some old exports then hold
        the tensor twice.
        """
        return self.ties_by_setting or not any(is_head(name) for name in self.tensors)

    @property
    def ties_by_setting(self) -> bool:
        """Whether the configuration ties input and output embeddings."""
        tied = self.setting("tie_word_embeddings")
        return self.setting("model_type") in _TIED_BY_DEFAULT if tied is None else bool(tied)

    def parameters(self) -> dict[str, TensorInfo]:
        """Return the parameters of the model by name, each counted once.

        Left out are tensors that are not of a floating type, constants, and output embeddings that are tied to the
        input embeddings. Experts that are stacked in one tensor are given one by one, as released checkpoints store
        them.
        """
        dropped, model_type = _HEADS if self.tied else (), self.setting("model_type")
        kept = (
            info
            for name, info in self.tensors.items()
            if "F" in info.dtype and not is_constant(info) and _owner(name) not in dropped
        )
        return {part.name: part for info in kept for part in unstacked(info, model_type)}

    @property
    def vocabulary_rows(self) -> int | None:
        """Number of rows of the input embeddings, which are recognized by their name; None if they are not found."""
        found = (info.rows for name, info in self.tensors.items() if _owner(name) in _EMBEDDINGS and info.shape)
        return next(found, None)

    def is_vocabulary(self, info: TensorInfo) -> bool:
        """Return whether the first dimension of a tensor counts tokens.

        It does in input and output embeddings, which are recognized by their names, if that dimension is also the
        `vocab_size` of the configuration (where it has one).
        """
        size = self.setting("vocab_size")
        return _owner(info.name) in (*_EMBEDDINGS, *_HEADS) and bool(info.shape) and size in {None, info.rows}


def is_constant(info: TensorInfo) -> bool:
    """Return whether a tensor is a constant that old exports store: rotary frequencies, or a causal mask."""
    leaf = info.name.rpartition(".")[2]
    mask = leaf == "bias" and _owner(info.name) in _MASKED and info.shape[:2] == (1, 1) and len(info.shape) == 4
    return leaf in _CONSTANTS or mask


def is_head(name: str) -> bool:
    """Return whether a tensor belongs to the output embeddings."""
    return _owner(name) in _HEADS


def read_config(folder: Path) -> dict[str, Any]:
    """Return the config.json of a checkpoint folder.

    Raises:
        ModelError: The folder does not exist or is empty, or config.json is missing, is not a JSON object, or has
            an entry of a wrong type.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder: a model is a folder with config.json and safetensors weights")
    path = folder / "config.json"
    if not path.is_file():
        if not any(folder.iterdir()):
            raise ModelError(f"{folder} is empty: download the model again, or remove the folder")
        if (folder / "adapter_config.json").is_file():
            raise ModelError(f"{folder} is an adapter, not a model: merge it into its base model and give that folder")
        raise ModelError(f"{folder} has no config.json: give the folder that save_pretrained wrote")
    config = read_json_object(path)
    for part in (config, config.get("text_config")):
        _check_settings(path, part if isinstance(part, dict) else {})
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder} holds a model and an adapter; transformers would apply the adapter and a merge would not: move "
            "the adapter's files to a folder of their own"
        )
    return config


def read_layout(folder: Path) -> Layout:
    """Return the configuration and the tensors of a checkpoint; read no weights.

    The weights are `model.safetensors`, or the shards that `model.safetensors.index.json` names. A folder that has both
    is refused unless they mean the same, because transformers takes the file and mergekit takes the shards.

    Raises:
        ModelError: A file is missing, cut off or unreadable, or the weights are not safetensors.
    """
    config = read_config(folder)
    single, index = folder / SINGLE, folder / INDEX
    if single.is_file() or not index.is_file():
        if not single.is_file():
            raise ModelError(_no_weights(folder))
        tensors = read_tensors(single)
        if index.is_file() and not _names_only(SINGLE, index):
            raise ModelError(f"{folder} holds {SINGLE} and an index of other weights: remove one of the two")
    else:
        tensors = _read_shards(folder, index)
    if not tensors:
        raise ModelError(f"the weights in {folder} hold no tensor: download or save the model again")
    ordered = sorted(tensors.values(), key=lambda info: (info.file, info.offset))
    files = {name: (folder / name).stat().st_size for name in sorted({info.file for info in ordered})}
    return Layout(folder, config, {info.name: info for info in ordered}, files)


def _check_settings(path: Path, config: Mapping[str, Any]) -> None:
    for key, kind, what in (("model_type", str, "a string"), ("vocab_size", int, "a whole number")):
        value = config.get(key)
        if value is not None and type(value) is not kind:
            raise ModelError(f"{path}: {key} = {shown(value)}: it must be {what}; download the model again")


def _names_only(file: str, index: Path) -> bool:
    places = read_json_object(index).get("weight_map")
    return isinstance(places, dict) and bool(places) and all(place == file for place in places.values())


def _owner(name: str) -> str:
    """Return the module a tensor belongs to: `lm_head` of `lm_head.weight`."""
    return name.rpartition(".")[0].rpartition(".")[2]


def _no_weights(folder: Path) -> str:
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickled:
        allowed = "set allow_pickled_weights: true to have a run convert them, or " if is_pickled(folder) else ""
        return (
            f"{folder} holds pickled weights ({pickled[0]}), which can run code when opened and are refused: {allowed}"
            "convert them with AutoModelForCausalLM.from_pretrained(...).save_pretrained(..., safe_serialization=True)"
        )
    return f"{folder} has no weights: expected {SINGLE}, or {INDEX} and its shards; download the model again"


def _read_shards(folder: Path, index: Path) -> dict[str, TensorInfo]:
    places = read_index(index)
    headers = {shard: read_tensors(folder / shard) for shard in sorted(set(places.values()))}
    for name, shard in places.items():
        if name not in headers[shard]:
            raise ModelError(
                f"{index} puts {shown(name)} into {shown(shard)}, which does not hold it: download the model again"
            )
    for shard, tensors in headers.items():
        for name in tensors:
            if name in places and places[name] != shard:
                raise ModelError(
                    f"{folder} holds {shown(name)} in {places[name]} and in {shard}: download the model again"
                )
    return {name: headers[shard][name] for name, shard in places.items()}
