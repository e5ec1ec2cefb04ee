"""Hashes of the files of a checkpoint, and the identity that they make.

A file in the cache of the Hugging Face Hub is stored under its SHA-256 if it is large. Such a file is not read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from evolve.engines.checkpoints.files import INDEX, SINGLE, companions
from evolve.engines.checkpoints.layout import read_layout
from evolve.engines.protocols import Report

__all__ = [
    "CHUNK",
    "HASHERS",
    "FileStamp",
    "byte_counter",
    "content_identity",
    "fingerprint",
    "hash_file",
    "model_files",
]

CHUNK = 4 << 20
"""Bytes read at a time."""

HASHERS = 4
"""Files read at a time; hashlib releases the interpreter's lock."""

_BLOB = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileStamp:
    """Size in bytes and SHA-256 (hexadecimal) of a file."""

    size: int
    sha256: str


def hash_file(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of a file.

    Args:
        path: The file. One in the Hub cache whose blob is named by its SHA-256 is not read.
        advance: Called with the number of bytes done since its last call.
    """
    advance = advance or (lambda _: None)
    blob = path.resolve()
    if path.is_symlink() and blob.parent.name == "blobs" and _BLOB.fullmatch(blob.name):
        advance(blob.stat().st_size)
        return blob.name
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def model_files(folder: Path, weights: Collection[str] | None = None) -> list[Path]:
    """Return all files of a checkpoint that affect the model's output, sorted.

    These are the weights, the configurations, the tokenizer's files, the chat templates and the model's own code.
    Hidden files, READMEs, and the same weights in other formats are left out.

    Args:
        folder: The checkpoint folder.
        weights: Names of the weight files; None: those of its safetensors.

    Raises:
        ModelError: As `read_layout`.
    """
    if weights is None:
        weights = {*read_layout(folder).files} | ({INDEX} if not (folder / SINGLE).is_file() else set())
    return sorted({*(folder / name for name in weights), *companions(folder)})


def fingerprint(
    folder: Path,
    *,
    weights: Collection[str] | None = None,
    hash_of: Callable[[Path, Callable[[int], None]], str] = hash_file,
    report: Report | None = None,
) -> dict[str, FileStamp]:
    """Return sizes and hashes of the `model_files` of a checkpoint, sorted by name.

    Args:
        folder: The checkpoint folder.
        weights: Names of the weight files; None: those of its safetensors.
        hash_of: Hashes a file, and reports the bytes done to its second argument. Called from several threads.
        report: Called with the bytes done; possibly from another thread, but never from two at once.

    Raises:
        ModelError: As `read_layout`.
    """
    paths = model_files(folder, weights)
    advance = byte_counter("fingerprinting", paths, report)
    with ThreadPoolExecutor(HASHERS) as pool:
        hashes = list(pool.map(lambda path: hash_of(path, advance), paths))
    return {
        path.relative_to(folder).as_posix(): FileStamp(path.stat().st_size, digest)
        for path, digest in zip(paths, hashes, strict=True)
    }


def content_identity(stamps: Mapping[str, FileStamp]) -> str:
    """Return the identity of a model: a SHA-256 over the sizes and hashes of the files that decide what it says."""
    record = {name: (stamp.size, stamp.sha256) for name, stamp in stamps.items()}
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def byte_counter(words: str, paths: Collection[Path], report: Report | None) -> Callable[[int], None]:
    """Return a function that adds up bytes from several threads and reports their sum, of all bytes of some files."""
    total, done, lock = sum(path.stat().st_size for path in paths), 0, Lock()

    def advance(size: int) -> None:
        nonlocal done
        with lock:
            done += size
            if report:
                report(words, done, total)

    return advance
