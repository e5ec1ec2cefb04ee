"""A local Hub cache with the layout of the Hub's client."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path


class HubCache:
    """A cache of models by `owner/name`; a commit is a folder of links to blobs, a branch or tag is a file."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _folder(self, name: str) -> Path:
        return self.root / f"models--{name.replace('/', '--')}"

    def add(
        self,
        name: str,
        model: Path,
        commit: str,
        *refs: str,
        wanted: Callable[[str], bool] = lambda file: True,
    ) -> Path:
        """Add the files of a folder to the cache as a commit, and point the refs to it."""
        folder = self._folder(name)
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (folder / "blobs").mkdir(exist_ok=True)
        for path in sorted(model.iterdir()):
            if path.is_file() and wanted(path.name):
                data = path.read_bytes()
                blob = folder / "blobs" / hashlib.sha256(data).hexdigest()
                blob.write_bytes(data)
                (snapshot / path.name).symlink_to(f"../../blobs/{blob.name}")
        for ref in refs:
            self.point(name, ref, commit)
        return snapshot

    def point(self, name: str, ref: str, commit: str) -> None:
        """Point a branch or a tag to another commit."""
        path = self._folder(name) / "refs" / ref
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit)
