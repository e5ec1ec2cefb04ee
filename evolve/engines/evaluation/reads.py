"""Record the files that are read while lm-eval builds tasks and renders their documents.

Python reports each file that it opens to an audit hook. Files that libraries in other languages read are not reported:
the data files come from the builders of `datasets` themselves, and those of `pyarrow` from its readers.
"""

from __future__ import annotations

import os
import re
import site
import stat
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.util import source_from_cache
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

from evolve.engines.evaluation.arrow import arrow_files

__all__ = ["GENERATED", "Reads", "recorded"]

GENERATED = "evolve-tasks-"
"""Beginning of the names of the temporary folders with generated task files."""

_SYSTEM = ("/etc", "/proc", "/sys")
_OF_THE_HUB = ("huggingface.co", "hf.co")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SNAPSHOT = re.compile(r"/(?:models|datasets|spaces)--([^/]+)/snapshots/([0-9a-f]{40})/")
_CODE = (".py", ".pyc")

_active: list[Reads] = []
_imported: dict[str, None] = {}
"""Files that were read in this process while modules of tasks were imported. A module is imported only once."""

_asked: dict[str, None] = {}
"""Servers that were asked in this process while modules of tasks were imported."""


@dataclass
class Reads:
    """What was read.

    Attributes:
        ignored: Beginnings of paths that are no inputs of a task.
        opened: Paths that Python opened to read, in this order.
        data: Local data files that `datasets` loaded.
        written: Paths that Python wrote before it read them; they are no inputs.
        commits: Commits of each repository of the Hub, by its name.
        problems: Reasons why the data cannot be identified.
        hosts: Servers other than the Hub that were asked.
    """

    ignored: tuple[str, ...] = field(default_factory=lambda: _ignored())  # noqa: PLW0108 - defined below
    opened: dict[str, None] = field(default_factory=dict)
    data: dict[str, None] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)
    commits: dict[str, set[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    hosts: dict[str, None] = field(default_factory=dict)

    def files(self, *, imports: bool) -> list[Path]:
        """Return all inputs, sorted: existing regular files outside Python, lm-eval, evolve and the caches.

        Args:
            imports: Whether files that were read during imports of an earlier task are inputs of this one too.
        """
        opened = [*self.opened, *(_imported if imports else ())]
        found = {
            path for path in map(_source, opened) if path not in self.written and not path.startswith(self.ignored)
        }
        found |= {os.path.abspath(path) for path in self.data}  # noqa: PTH100 - links are kept
        found |= {str(arrow) for path in found for arrow in _saved_data(Path(path))}
        return sorted(Path(path) for path in found if _is_file(path))

    def servers(self, *, imports: bool) -> list[str]:
        """Return the servers other than the Hub that were asked; `imports` as for `files`."""
        return list(self.hosts | (_asked if imports else {}))

    @property
    def revision(self) -> str | None:
        """The commit of the data from the Hub; of several repositories each with its name; None if there are none."""
        if len(self.commits) == 1:
            return "+".join(sorted(next(iter(self.commits.values()))))
        named = sorted(f"{name}@{'+'.join(sorted(commits))}" for name, commits in self.commits.items())
        return " ".join(named) or None

    def add_builder(self, builder: Any) -> None:
        """Add the data that a builder of `datasets` loads."""
        remote = False
        for file in [str(file) for files in (builder.config.data_files or {}).values() for file in files]:
            place = file.rpartition("::")[2]  # of `zip://<file>::<archive>` the archive
            if place.startswith("hf://"):
                remote = True
                self._add_commit(builder.repo_id or "the Hub", place)
            elif "://" not in place or place.startswith("file://"):
                self.data[place.removeprefix("file://")] = None
            else:
                self.problems.append(f"its data come from {place}, which may change")
        name = builder.repo_id or "the Hub"
        if builder.repo_id is not None and _COMMIT.fullmatch(builder.hash or ""):
            self.commits[name] = self.commits.get(name, set()) | {builder.hash}
        if (builder.repo_id is not None or remote) and name not in self.commits:
            self.problems.append(f"the revision of its data from {name} is unknown")

    def _add_commit(self, name: str, place: str) -> None:
        match = re.match(r"hf://[^@]+@([0-9a-f]{40})/", place)
        if match is not None:
            self.commits.setdefault(name, set()).add(match[1])

    def add_snapshots(self) -> None:
        """Add the commits of the files that Python opened in the cache of the Hub."""
        for path in self.opened:
            match = _SNAPSHOT.search(path)
            if match is not None:
                self.commits.setdefault(match[1].replace("--", "/"), {match[2]})


@contextmanager
def recorded(reads: Reads) -> Iterator[None]:
    """Record what is read in this block, in all threads of the process."""
    import datasets

    _install()
    load, prepare = datasets.load.load_dataset_builder, datasets.DatasetBuilder.download_and_prepare

    def seen(*arguments: Any, **options: Any) -> Any:
        builder = load(*arguments, **options)
        reads.add_builder(builder)
        return builder

    def prepared(builder: Any, *arguments: Any, **options: Any) -> Any:  # also of `Dataset.from_json`
        reads.add_builder(builder)
        return prepare(builder, *arguments, **options)

    _active.append(reads)
    try:
        # Bytecode of a module is recognized by its size and its time in seconds, so an edited one may look unchanged.
        with (
            mock.patch.object(datasets.load, "load_dataset_builder", seen),
            mock.patch.object(datasets.DatasetBuilder, "download_and_prepare", prepared),
            mock.patch.object(sys, "dont_write_bytecode", True),  # noqa: FBT003
            arrow_files(partial(_note, writes=False)),
        ):
            yield
    finally:
        _active.remove(reads)
        reads.add_snapshots()


@cache
def _install() -> None:
    """Install the audit hook, which Python cannot remove again."""
    sys.addaudithook(_listen)


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if not _active:
        return
    if event == "open":
        path, mode, flags = arguments
        if isinstance(path, str | bytes):
            _note(os.path.abspath(os.fsdecode(path)), writes=_writes(mode, flags))  # noqa: PTH100 - a link stays a link
    elif event == "import" and isinstance(arguments[1], str):
        _note(arguments[1], writes=False)
    elif event == "sqlite3.connect" and isinstance(arguments[0], str | bytes):
        _note(os.path.abspath(os.fsdecode(arguments[0])), writes=False)  # noqa: PTH100
    elif event == "urllib.Request":
        _note_host(urlsplit(str(arguments[0])).hostname)
    elif event == "socket.getaddrinfo":
        _note_host(arguments[0])


def _note(path: str, *, writes: bool) -> None:
    for reads in _active:
        if writes:
            if path not in reads.opened:
                reads.written.add(path)
        else:
            reads.opened[path] = None
    if not writes and (path.endswith(_CODE) or _imports(sys._getframe(), _active[-1].ignored)):  # noqa: SLF001 - the public way is slow
        _imported[path] = None


def _note_host(host: Any) -> None:
    name = os.fsdecode(host) if isinstance(host, str | bytes) else ""
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT", "")).hostname
    if name and name != endpoint and not name.endswith(_OF_THE_HUB):
        for reads in _active:
            reads.hosts[name] = None
        if _imports(sys._getframe(), _active[-1].ignored):  # noqa: SLF001 - the public way is slow
            _asked[name] = None


def _writes(mode: str | None, flags: int) -> bool:
    if mode is not None:
        return mode[:1] in {"w", "x", "a"}
    return flags & os.O_ACCMODE != os.O_RDONLY


def _imports(frame: FrameType | None, ignored: tuple[str, ...]) -> bool:
    """Return whether a module of a task is being imported."""
    while frame is not None:
        if frame.f_code.co_name == "<module>" and not frame.f_code.co_filename.startswith(ignored):
            return True
        frame = frame.f_back
    return False


def _source(path: str) -> str:
    """Return the Python source of a file of bytecode, and any other path unchanged."""
    if not path.endswith(".pyc"):
        return path
    try:
        return source_from_cache(path)
    except ValueError:
        return path


def _ignored() -> tuple[str, ...]:
    """Return the beginnings of the paths of Python, installed packages, evolve, caches and generated task files."""
    import datasets
    import huggingface_hub.constants as hub
    import lm_eval

    import evolve

    python = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    packages = [str(Path(module.__file__ or "").parent) for module in (lm_eval, evolve)]
    user = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    caches = [hub.HF_HOME, hub.HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE, datasets.config.HF_MODULES_CACHE, user]
    folders = [*python, *site.getsitepackages(), site.getusersitepackages(), *packages, *caches, *_SYSTEM]
    both = {form for folder in folders for form in (str(folder), os.path.realpath(folder))}
    temporary = Path(tempfile.gettempdir()) / GENERATED
    return (*(f"{folder.rstrip('/')}/" for folder in both), str(temporary), os.path.realpath(temporary), "<")


def _saved_data(path: Path) -> Iterable[Path]:
    """Return the data files beside a description of a data set that `datasets` saved."""
    return sorted(path.parent.glob("*.arrow")) if path.name in {"state.json", "dataset_info.json"} else ()


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116
    except OSError:
        return False
