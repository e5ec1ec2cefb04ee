"""The cache of file hashes, keyed by path, size, inode and times of a file."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock

import platformdirs

from evolve.engines.checkpoints import hash_file

__all__ = ["HashCache"]

_LOG = logging.getLogger("evolve.run")
_MOST = 50_000  # entries; the oldest are dropped
_SETTLED_NS = 50_000_000  # a file changed more recently could change again within the same tick of the clock


def _ignore(_: int) -> None:
    """Ignore a number of bytes."""


class HashCache:
    """SHA-256 of files by path, size, inode, modification time (mtime) and change time (ctime).

    The ctime is part of the key because it cannot be set back. The cache is a JSON file in the user's cache folder
    (`EVOLVE_CACHE_DIR` replaces that folder). All runs and commands share it, and it may be deleted at any time.

    Args:
        file: The JSON file; None: the file in the user's cache folder.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file if file is not None else _folder() / "hashes.json"
        self._known = _read(self._file)
        self._has_warned = False
        self._lock = Lock()  # a fingerprint hashes several files at once

    def hash_of(self, path: Path, advance: Callable[[int], None] = _ignore) -> str:
        """Return the SHA-256 of a file; read the file only if its hash is not cached.

        Args:
            path: The file.
            advance: Called with the number of bytes done since its last call.
        """
        started = time.time_ns()
        key, changed, size = _key(path)
        known = self._known.get(key)
        if known is not None:
            advance(size)
            return known
        found = hash_file(path, advance)
        if _key(path)[0] == key and changed < started - _SETTLED_NS:
            self._keep({key: found})
        return found

    def learn(self, hashes: Mapping[Path, str]) -> None:
        """Cache hashes of files that have just been verified."""
        self._keep({_key(path)[0]: digest for path, digest in hashes.items()})

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
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in content.items()} if isinstance(content, dict) else {}


def _key(path: Path) -> tuple[str, int, int]:
    """Return the current key of a file, its change time in nanoseconds, and its size in bytes."""
    state = path.stat()
    key = f"{path} {state.st_size} {state.st_ino} {state.st_mtime_ns} {state.st_ctime_ns}"
    return key, state.st_ctime_ns, state.st_size
