"""Verification of checkpoints: transformers loads them, and all numbers are finite."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from evolve.engines.checkpoints.hashing import HASHERS, byte_counter, hash_file
from evolve.engines.checkpoints.layout import Layout, is_constant, read_layout
from evolve.engines.checkpoints.scan import scan
from evolve.engines.protocols import Report
from evolve.engines.quiet import loading_errors, quiet_transformers
from evolve.errors import ModelError

__all__ = ["NotFiniteError", "first_bad_tensor", "manifest", "verify"]

_FAULTS = {
    "missing_keys": "lacks tensors that its configuration asks for",
    "mismatched_keys": "has tensors whose shapes are not those of its configuration",
    "unexpected_keys": "has tensors that its configuration has no place for",
    "error_msgs": "does not load",
}
"""Keys of transformers' loading info, and the fault that each means."""


class NotFiniteError(ModelError):
    """A tensor holds a number that is not finite.

    Attributes:
        tensor: Name of the first such tensor.
    """

    def __init__(self, message: str, tensor: str = "") -> None:
        super().__init__(message)
        self.tensor = tensor


def verify(folder: Path, *, trust_remote_code: bool, report: Report) -> dict[str, tuple[int, str]]:
    """Make sure that transformers loads a checkpoint completely and that all its numbers are finite.

    transformers loads names and shapes only (torch's meta device), so that memory does not depend on the size of the
    model. Then each file is read once. Imports transformers.

    Args:
        folder: The checkpoint folder.
        trust_remote_code: Whether code of the model may run.
        report: Called with the number of bytes read.

    Returns:
        Size in bytes and SHA-256 of every file, by name relative to the folder, sorted by name.

    Raises:
        NotFiniteError: A number is not finite.
        ModelError: A weight is missing, unexpected or of a wrong shape, or the configuration, the weights or the
            tokenizer do not load.
    """
    report("loading the checkpoint", 0, 1)
    layout = read_layout(folder)
    try:
        with quiet_transformers():
            info = _load(folder, trust_remote_code=trust_remote_code)
    except loading_errors() as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{folder} does not load in transformers: {words}") from error
    _refuse_faults(layout, info)
    return manifest(folder, report)


def manifest(folder: Path, report: Report) -> dict[str, tuple[int, str]]:
    """Read every file of a checkpoint folder once; return sizes and hashes, and make sure all numbers are finite.

    Args:
        folder: The checkpoint folder.
        report: Called with the number of bytes read; possibly from another thread, but never from two at once.

    Returns:
        Size in bytes and SHA-256 of every file, by name relative to the folder, sorted by name.

    Raises:
        NotFiniteError: A number is not finite.
        ModelError: As `read_layout`, or a file cannot be read.
    """
    weights = {folder / name for name in read_layout(folder).files}
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    advance = byte_counter("verifying files", paths, report)

    def read(path: Path) -> tuple[str, str | None]:
        return scan(path, advance) if path in weights else (hash_file(path, advance), None)

    files = {}
    with ThreadPoolExecutor(HASHERS) as pool:  # hashlib and numpy release the interpreter's lock
        for path, (digest, bad) in zip(paths, pool.map(read, paths), strict=True):
            if bad is not None:
                raise NotFiniteError(f"{folder} holds numbers that are not finite, first in {bad}", bad)
            files[path.relative_to(folder).as_posix()] = (path.stat().st_size, digest)
    return files


def first_bad_tensor(folder: Path) -> str | None:
    """Return the name of the first tensor of a checkpoint that holds a number that is not finite; None without one.

    Raises:
        ModelError: As `read_layout`, or a file cannot be read.
    """
    found = (scan(folder / name, lambda _: None, hashed=False)[1] for name in read_layout(folder).files)
    return next((name for name in found if name is not None), None)


def _load(folder: Path, *, trust_remote_code: bool) -> dict[str, Any]:
    """Load the model and the tokenizer with transformers; return its loading info about the weights."""
    from transformers import AutoConfig, AutoTokenizer

    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    config = AutoConfig.from_pretrained(folder, **options)
    info: dict[str, Any]
    _, info = _model_class(config).from_pretrained(
        folder,
        config=config,
        device_map="meta",
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that they are in the info, with the others
        **options,
    )
    AutoTokenizer.from_pretrained(folder, **options)
    return info


def _model_class(config: Any) -> Any:
    """Return the class that loads a model: a causal language model, or what its configuration names."""
    import transformers

    known = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    own = getattr(transformers, (getattr(config, "architectures", None) or [""])[0], None)
    return transformers.AutoModelForCausalLM if known or own is None else own


def _refuse_faults(layout: Layout, info: dict[str, Any]) -> None:
    """Raise if a weight is missing, unexpected or of a wrong shape; constants that old exports store are not."""
    constants = tuple(name for name, tensor in layout.tensors.items() if is_constant(tensor))
    for kind, fault in _FAULTS.items():
        names = sorted({str(entry[0]) if isinstance(entry, tuple) else str(entry) for entry in info.get(kind) or ()})
        if kind == "unexpected_keys":
            names = [name for name in names if not name.endswith(constants)]  # transformers may add a prefix
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ModelError(f"{layout.folder} {fault}: {', '.join(names[:3])}{more}")
