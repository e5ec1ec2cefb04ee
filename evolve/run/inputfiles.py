"""The files that a call reads, and what happened to them since the call began."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from evolve.errors import InputError, ModelError
from evolve.run.hashes import HashCache, HashedFile

__all__ = ["FileChange", "InputFiles"]


@dataclass(frozen=True)
class FileChange:
    """A change of an input.

    Attributes:
        file: The file.
        what: What happened to it, as the end of a sentence.
    """

    file: Path | str
    what: str

    def __str__(self) -> str:
        return f"{self.file} {self.what}"

    @classmethod
    def of(cls, error: OSError | InputError) -> FileChange:
        """Return the change that makes a model or a file unreadable that could be read before."""
        if isinstance(error, FileNotFoundError):
            return cls(str(error.filename), "is missing")
        if isinstance(error, OSError):
            return cls(str(error.filename), f"cannot be read any more ({error.strerror})")
        return cls("an input", f"is damaged ({error})")

    @property
    def fix(self) -> str:
        """What the user has to do."""
        return "remove it" if self.what == "is new" else "restore it"


@dataclass(frozen=True)
class InputFiles:
    """The files that a call reads, as they were when the call began.

    Attributes:
        list_files: Lists the files as they are now, so that a new one is noticed.
        files: The files at the beginning.
    """

    hashes: HashCache
    list_files: Callable[[], Iterable[Path]]
    files: Mapping[Path, HashedFile]

    @classmethod
    def begin(cls, hashes: HashCache, list_files: Callable[[], Iterable[Path]]) -> InputFiles:
        """Hash the files; this reads only those whose hashes are not cached.

        Raises:
            InputsChangedError: A file changes while it is read.
            ModelError: A model is damaged.
            OSError: A file cannot be read.
        """
        return cls(hashes, list_files, {path: hashes.hashed(path) for path in list_files()})

    def change(self) -> FileChange | None:
        """Return the first file that is changed, missing or new since the call began; None if there is none."""
        changed = self.hashes.changed(self.files)
        if changed is not None:
            return FileChange(changed, "has changed" if changed.exists() else "is missing")
        try:
            new = sorted({*self.list_files()} - self.files.keys())
        except (ModelError, OSError) as error:
            return FileChange.of(error)
        return FileChange(new[0], "is new") if new else None

    @property
    def stamp(self) -> str | None:
        """A hash of the paths and states of the files; None if a change could leave one of the states as it is."""
        if not all(file.settled for file in self.files.values()):
            return None
        digest = hashlib.sha256()
        for path, file in sorted(self.files.items()):
            digest.update(f"{path} {' '.join(map(str, file.state))}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]
