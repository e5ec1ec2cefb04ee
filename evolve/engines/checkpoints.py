"""Checkpoint folders, seen from outside: what tensors they hold, what identifies them, what sets two apart.

Everything is read from JSON files and from the headers of safetensors files, so that the driver can check models of
any size in milliseconds and without torch. Pickled weights are never opened.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any

from evolve.engines.headers import TensorInfo, read_tensors
from evolve.engines.protocols import Report
from evolve.errors import ModelError

__all__ = [
    "FileStamp",
    "Layout",
    "TensorInfo",
    "companions",
    "differences",
    "fingerprint",
    "is_head",
    "is_pickled",
    "read_config",
    "read_json_object",
    "read_layout",
    "read_tensors",
    "total_bytes",
]

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_BUFFERS = (".inv_freq", ".masked_bias")  # saved by old transformers beside the parameters
_EMBEDDINGS = ("embed_tokens", "embed_in", "wte", "word_embeddings", "tok_embeddings")
_HEADS = ("lm_head", "embed_out")
_TIED_BY_DEFAULT = ("gemma", "gemma2", "gemma3", "gemma3_text", "gpt2")  # their config.json need not say it
_CONFIG_KEYS = (
    *("model_type", "architectures", "num_hidden_layers", "hidden_size", "intermediate_size"),
    *("num_attention_heads", "num_key_value_heads", "head_dim"),
)
_COMPANIONS = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template)\.json"
    r"|tokenizer\.model|spiece\.model|sentencepiece\.bpe\.model|merges\.txt|vocab\.txt|chat_template\.jinja"
    r"|[^.].*\.(tiktoken|py)"
)
_CHUNK = 4 << 20  # bytes read at a time while hashing
_HASHERS = 4


@dataclass(frozen=True)
class Layout:
    """A checkpoint as its configuration and the headers of its weight files describe it.

    Attributes:
        folder: The checkpoint folder.
        config: Its config.json.
        tensors: All its tensors, by name, in the order of their files and places in them; none where its weights are
            pickled, which are not opened to look.
        files: Sizes in bytes of its weight files, by name.
    """

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    files: Mapping[str, int]

    def setting(self, key: str) -> Any:
        """An entry of the configuration, or of its `text_config` in multimodal models; None where it has none."""
        text = self.config.get("text_config")
        value = self.config.get(key)
        return text.get(key) if value is None and isinstance(text, Mapping) else value

    @property
    def tied(self) -> bool:
        """Whether input and output embeddings are one tensor.

        They are where the weights hold no output embeddings at all, or where the configuration says so; some old
        exports then hold the one tensor twice.
        """
        return self.ties_by_setting or not any(is_head(name) for name in self.tensors)

    @property
    def ties_by_setting(self) -> bool:
        """Whether the configuration says that input and output embeddings are one tensor."""
        tied = self.setting("tie_word_embeddings")
        return self.setting("model_type") in _TIED_BY_DEFAULT if tied is None else bool(tied)

    def parameters(self) -> dict[str, TensorInfo]:
        """The tensors that are parameters of the model, each counted once.

        Left out are tensors that are not of a floating type, constants that old exports hold (rotary frequencies,
        masks), and output embeddings that are tied to the input embeddings.
        """
        dropped = _HEADS if self.tied else ()
        return {
            name: info
            for name, info in self.tensors.items()
            if "F" in info.dtype and not name.endswith(_BUFFERS) and _owner(name) not in dropped
        }

    def is_vocabulary(self, info: TensorInfo) -> bool:
        """Whether the first dimension of a tensor counts tokens.

        It does in input and output embeddings, which are known by their names, if that dimension is also the
        `vocab_size` of the configuration (where it has one).
        """
        size = self.setting("vocab_size")
        return _owner(info.name) in (*_EMBEDDINGS, *_HEADS) and bool(info.shape) and size in {None, info.rows}


@dataclass(frozen=True)
class FileStamp:
    """Size in bytes and SHA-256 (hexadecimal) of a file."""

    size: int
    sha256: str


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a checkpoint folder.

    Raises:
        ModelError: The folder does not exist or is empty, or config.json is missing or is not a JSON object.
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
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder} is a model with an adapter lying in it, which transformers would apply and a merge would not: "
            "move the adapter's files to a folder of their own"
        )
    return config


def read_layout(folder: Path) -> Layout:
    """The tensors of a checkpoint, from the headers of its safetensors files.

    The weights are `model.safetensors`, or the shards that `model.safetensors.index.json` names. A folder that has both
    is refused unless they mean the same, for transformers takes the one and mergekit the other.

    Raises:
        ModelError: A file is missing, cut off or unreadable, or the weights are not safetensors.
    """
    config = read_config(folder)
    single, index = folder / _SINGLE, folder / _INDEX
    if single.is_file() or not index.is_file():
        if not single.is_file():
            raise ModelError(_no_weights(folder))
        tensors = read_tensors(single)
        if index.is_file() and {*(read_json_object(index).get("weight_map") or {}).values()} != {_SINGLE}:
            raise ModelError(
                f"{folder} holds {_SINGLE} and an index of other weights: remove the one that is not meant"
            )
    else:
        tensors = _read_shards(folder, index)
    if not tensors:
        raise ModelError(f"the weights in {folder} hold no tensor: download or save the model again")
    ordered = sorted(tensors.values(), key=lambda info: (info.file, info.offset))
    files = {name: (folder / name).stat().st_size for name in sorted({info.file for info in ordered})}
    return Layout(folder, config, {info.name: info for info in ordered}, files)


def fingerprint(
    folder: Path, *, weights: Collection[str] | None = None, report: Report | None = None
) -> dict[str, FileStamp]:
    """Sizes and hashes of all files of a checkpoint that decide what the model says, sorted by name.

    They are the weights, the configurations, the files of the tokenizer, the chat templates and the model's own code;
    not hidden files, READMEs, or the same weights in other formats. A weight file in the hub's cache carries its hash
    as its name, and is not read.

    Args:
        folder: The checkpoint folder.
        weights: Names of the files with the weights; None: those of its safetensors.
        report: Is told the bytes that are done; possibly from another thread, but never from two at once.

    Raises:
        ModelError: As `read_layout`.
    """
    paths = _paths(folder, weights)
    total, done, lock = sum(path.stat().st_size for path in paths), 0, Lock()

    def advance(size: int) -> None:
        nonlocal done
        with lock:
            done += size
            if report:
                report("fingerprinting", done, total)

    with ThreadPoolExecutor(_HASHERS) as pool:
        stamps = list(pool.map(lambda path: _stamp(path, advance), paths))
    return {path.relative_to(folder).as_posix(): stamp for path, stamp in zip(paths, stamps, strict=True)}


def total_bytes(folder: Path) -> int:
    """Size in bytes of the files that `fingerprint` covers; raises as `read_layout`."""
    return sum(path.stat().st_size for path in _paths(folder))


def differences(a: Layout, b: Layout) -> str | None:
    """The first thing that keeps two models from being merged or compared, as a sentence; None if there is none.

    Compared are the architecture, the sizes in the configuration (where both give them), whether the embeddings are
    tied, and names and shapes of all parameters apart from the number of tokens. Of pickled weights only the
    configuration is compared.
    """
    pair = f"{a.folder} and {b.folder} differ in"
    for key in _CONFIG_KEYS:
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


def is_pickled(folder: Path) -> bool:
    """Whether the weights of a folder are pickled and there are no safetensors, which would count instead."""
    return _has_any(folder, _PICKLED) and not _has_any(folder, (_SINGLE, _INDEX))


def companions(folder: Path) -> list[Path]:
    """All files of a checkpoint that decide what the model says, apart from the weights, sorted."""
    names = (path for path in folder.iterdir() if path.is_file() and _COMPANIONS.fullmatch(path.name))
    return sorted(chain(names, (folder / "additional_chat_templates").glob("*.jinja")))


def is_head(name: str) -> bool:
    """Whether a tensor belongs to the output embeddings."""
    return _owner(name) in _HEADS


def _has_any(folder: Path, names: Iterable[str]) -> bool:
    return any((folder / name).is_file() for name in names)


def _owner(name: str) -> str:
    """The module a tensor belongs to: `lm_head` of `lm_head.weight`."""
    return name.rpartition(".")[0].rpartition(".")[2]


def read_json_object(path: Path) -> dict[str, Any]:
    """The content of a JSON file; raises ModelError where it is not an object."""
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON ({error}): download the model again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} does not hold a JSON object: download the model again")
    return value


def _no_weights(folder: Path) -> str:
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickled:
        allowed = "set allow_pickled_weights: true to have a run convert them, or " if is_pickled(folder) else ""
        return (
            f"{folder} holds pickled weights ({pickled[0]}), which can run code when opened and are refused: {allowed}"
            "convert them with AutoModelForCausalLM.from_pretrained(...).save_pretrained(..., safe_serialization=True)"
        )
    return f"{folder} has no weights: expected {_SINGLE}, or {_INDEX} and its shards; download the model again"


def _read_shards(folder: Path, index: Path) -> dict[str, TensorInfo]:
    places = read_json_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ModelError(f"{index} has no weight_map from tensors to files: download the model again")
    headers: dict[str, dict[str, TensorInfo]] = {}
    for shard in sorted(set(places.values())):
        path = folder / shard
        if path.parent != folder or not path.is_file():
            raise ModelError(f"{index} names the shard {shard}, which is not in the folder: download the model again")
        headers[shard] = read_tensors(path)
    for name, shard in places.items():
        if name not in headers[shard]:
            raise ModelError(f"{index} puts {name} into {shard}, which does not hold it: download the model again")
    return {name: headers[shard][name] for name, shard in places.items()}


def _paths(folder: Path, weights: Collection[str] | None = None) -> list[Path]:
    if weights is None:
        weights = {*read_layout(folder).files} | ({_INDEX} if not (folder / _SINGLE).is_file() else set())
    return sorted({*(folder / name for name in weights), *companions(folder)})


def _stamp(path: Path, advance: Callable[[int], None]) -> FileStamp:
    size, blob = path.stat().st_size, path.resolve()
    if path.is_symlink() and blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name):
        advance(size)
        return FileStamp(size, blob.name)
    digest = hashlib.sha256()
    for block in _blocks(path):
        digest.update(block)
        advance(len(block))
    return FileStamp(size, digest.hexdigest())


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            yield block
