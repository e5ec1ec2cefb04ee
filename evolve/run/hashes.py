"""The cache of file hashes, keyed by path, size, inode and times of a file, and detection of changed files."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import platformdirs

from evolve.engines.checkpoints import hash_file
from evolve.errors import InputsChangedError
from evolve.files import MOST_RECORD, read_json

__all__ = ["FileState", "HashCache", "HashedFile"]

_LOG = logging.getLogger("evolve.run")
_MOST = 50_000  # entries; the oldest are dropped
_SETTLED_NS = 50_000_000  # a file changed more recently could change again within the same tick of the clock
_ATTEMPTS = 3  # at a file that changes while it is read


def _ignore(_: int) -> None:
    """Ignore a number of bytes."""


class FileState(NamedTuple):
    """Size, inode, modification time (mtime) and change time (ctime) of a file; reading a file alters none of them."""

    size: int
    inode: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """Return the current state of a file; a link is followed."""
        found = path.stat()
        return cls(found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(frozen=True)
class HashedFile:
    """A file as it was when it was hashed.

    Attributes:
        state: Its state before and after it was read.
        sha256: Its hash.
        settled: Whether every later change alters the state. A file that had changed just before could change again
            within the same tick of the clock.
    """

    state: FileState
    sha256: str
    settled: bool


class HashCache:
    """SHA-256 of files by path, size, inode, modification time (mtime) and change time (ctime).

    The ctime is part of the key because it cannot be set back. The cache is a JSON file in the user's cache folder
    (`EVOLVE_CACHE_DIR` replaces that folder). All runs and commands share it, and it may be deleted at any time.

    A large file of the Hub's cache is named by its hash. It is read only after a change.

    Args:
        file: The JSON file; None: the file in the user's cache folder.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file if file is not None else _folder() / "hashes.json"
        self._known = _read(self._file)
        self._first: dict[Path, str] = {}  # the first hash of each file in this process
        self._has_warned = False
        self._lock = Lock()  # a fingerprint hashes several files at once

    @property
    def first(self) -> Mapping[Path, str]:
        """The first hash of each file in this process."""
        with self._lock:
            return dict(self._first)

    def hash_of(self, path: Path, advance: Callable[[int], None] = _ignore) -> str:
        """Return the SHA-256 of a file; read the file only if its hash is not cached.

        Args:
            path: The file.
            advance: Called with the number of bytes done since its last call.

        Raises:
            InputsChangedError: The file changes while it is read.
        """
        return self.hashed(path, advance).sha256

    def hashed(self, path: Path, advance: Callable[[int], None] = _ignore) -> HashedFile:
        """Return the SHA-256 of a file with the state that it had; arguments and errors are those of `hash_of`."""
        for _ in range(_ATTEMPTS):
            started, state = time.time_ns(), FileState.of(path)
            settled = state.ctime_ns < started - _SETTLED_NS
            digest = self._known.get(_key(path, state))
            if digest is not None:
                advance(state.size)
            else:
                digest = hash_file(path.resolve() if self._has_entry(path) else path, advance)
                if FileState.of(path) != state:
                    advance = _ignore
                    continue
                if settled:
                    self._keep({_key(path, state): digest})
            with self._lock:
                self._first.setdefault(path, digest)
            return HashedFile(state, digest, settled)
        raise InputsChangedError(f"{path}: changes while it is read; wait until it is complete, then try again")

    def changed(self, files: Mapping[Path, HashedFile]) -> Path | None:
        """Return the first file that may have had another content since it was hashed; None if there is none.

        A missing file and one with another size, inode or modification time has changed, even if its content is the
        same as before: something else may have been read in the meantime. If only the change time differs, a hard
        link or new permissions may be the cause. Then the file is read, and has changed if its content differs.
        """
        return next((path for path, before in files.items() if not self._is_unchanged(path, before)), None)

    def learn(self, hashes: Mapping[Path, str]) -> None:
        """Cache hashes of files that have just been verified."""
        self._keep({_key(path, FileState.of(path)): digest for path, digest in hashes.items()})

    def _is_unchanged(self, path: Path, before: HashedFile) -> bool:
        try:
            now = FileState.of(path)
            if now == before.state and before.settled:
                return True
            if now[:3] != before.state[:3]:
                return False
            again = self.hashed(path)
        except (OSError, InputsChangedError):
            return False
        return again.state[:3] == before.state[:3] and again.sha256 == before.sha256

    def _has_entry(self, path: Path) -> bool:
        """Return whether a file was hashed before, in any state."""
        return path in self._first or any(key.startswith(f"{path} ") for key in self._known)

    def _keep(self, new: Mapping[str, str]) -> None:
        """Add hashes to the cache and to its file, to which other processes may have added theirs."""
        with self._lock:
            merged = {**_read(self._file), **self._known, **new}
            self._known = dict(list(merged.items())[-_MOST:])
            self._write()

    def _write(self) -> None:
        temporary = self._file.with_name(f".{self._file.name}.{os.getpid()}.tmp")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self._known, indent=0), encoding="utf-8")
            temporary.replace(self._file)
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                _LOG.warning("%s: hashes of files are not cached (%s)", self._file, error.strerror or error)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _folder() -> Path:
    own = os.environ.get("EVOLVE_CACHE_DIR")
    return Path(own) if own else platformdirs.user_cache_path("evolve")


def _read(file: Path) -> dict[str, str]:
    try:
        content = read_json(file, MOST_RECORD)
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in content.items()} if isinstance(content, dict) else {}


def _key(path: Path, state: FileState) -> str:
    return f"{path} {state.size} {state.inode} {state.mtime_ns} {state.ctime_ns}"
