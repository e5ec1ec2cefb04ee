"""The records of the table of faults, and the runner that judges one row.

A row prepares a folder, calls the command and says what must come of it. Every row also asserts what holds for all:
no traceback in the output or in a log, an end within its time, and no file that a row does not name made, changed or
deleted by the command.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tests.faults.commands import Commands, Ended

Class = Literal["wrong result", "late failure", "hostile folder", "hostile file", "terminal"]
Family = Literal["real", "fake", "finished", "begun", "none"]

RUN_FOLDER = ("runs", "runs/**", "models-cache", "models-cache/**")
"""Files that a run which begins may write."""

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
UNCLEAN = ("Traceback", "Error(", "NoneType", "pydantic", "Exception ignored")


@dataclass(frozen=True)
class Place:
    """The folder of one case; the family lies in `family`, its configuration is `family/config.yaml`."""

    root: Path
    commands: Commands

    @property
    def family(self) -> Path:
        return self.root / "family"

    @property
    def config(self) -> Path:
        return self.family / "config.yaml"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def run(self) -> Path:
        return self.runs / "run"

    @property
    def victim(self) -> Path:
        """A foreign folder that no command may touch."""
        return self.root / "victim"

    def named(self, words: str) -> str:
        """Fill the paths of this case into words."""
        names = ("root", "family", "config", "runs", "run", "victim")
        for name in names:
            words = words.replace(f"<{name}>", str(getattr(self, name)))
        return words


Change = Callable[[Place], object]


def nothing(place: Place) -> None:
    """Change nothing."""


@dataclass(frozen=True)
class Step:
    """One command of a row.

    Attributes:
        arguments: Of the command; `<config>`, `<run>` and the other names of `Place` stand for paths.
        before: Prepares the folder for it.
        code: The exit codes that are right.
        words: Words of the message, which is all that the command prints.
        absent: Words that it must not print.
        changes: Patterns of the paths, below the folder of the case, that may change.
        after: Asserts more about the folder.
        engines: Real or fake engines.
        env: Variables of the environment.
        limits: Soft resource limits by name, such as `FSIZE`.
        hooks: Name of an engine to number of the call before which a shell script runs, and the script.
        seconds: The command is hanging if it takes longer.
        process: Start the installed command in a process of its own, with real workers.
        shell: With `process`: a shell command in which `$EVOLVE` starts the command.
        cwd: Working directory, below the folder of the case.
    """

    arguments: tuple[str, ...] = ()
    before: Change = nothing
    code: int | tuple[int, ...] = 2
    words: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    after: Change = nothing
    engines: Literal["real", "fake"] = "real"
    env: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    hooks: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    seconds: float = 60.0
    process: bool = False
    shell: str = ""
    cwd: str = "."


@dataclass(frozen=True)
class Fault:
    """A row of the table; a slow one costs seconds and is like another."""

    kind: Class
    name: str
    family: Family
    steps: tuple[Step, ...]
    slow: bool = False


def sparing(rows: Iterable[Fault], *names: str) -> tuple[Fault, ...]:
    """Return rows of which all but those with some names are slow, because each costs seconds."""
    found = tuple(row if row.name in names else replace(row, slow=True) for row in rows)
    assert {row.name for row in found if not row.slow} == set(names), f"no such rows: {names}"
    return found


def judge(fault: Fault, place: Place) -> None:
    """Do the steps of a row, and assert what each says."""
    for step in fault.steps:
        step.before(place)
        before = snapshot(place.root)
        ended = place.commands(place, step)
        said = ended.out + ended.err
        assert ended.code is not None, f"it hangs: {said}"
        codes = (step.code,) if isinstance(step.code, int) else step.code
        assert ended.code in codes, f"exit code {ended.code}: {said}"
        _assert_clean(said)
        for log in (*place.root.rglob("run.log"), *place.root.rglob("*.out")):
            _assert_clean(log.read_text(errors="replace"))
        _assert_message(ended, step, place)
        changed = differences(before, snapshot(place.root), step.changes)
        assert not changed, f"files that no command may touch: {changed}"
        step.after(place)


def _assert_clean(said: str) -> None:
    assert not [words for words in UNCLEAN if words in said], said


def _assert_message(ended: Ended, step: Step, place: Place) -> None:
    said = " ".join((ended.out + ended.err).split())
    lacking = [words for words in map(place.named, step.words) if " ".join(words.split()) not in said]
    assert not lacking, f"{lacking} not in: {said}"
    assert not [words for words in step.absent if words in said], said
    if ended.code == 2 and not step.shell:
        assert ended.err.startswith("evolve: "), said
        assert len(ended.err) < 20_000, f"a message of {len(ended.err)} characters"
    assert not CONTROL.findall(ended.out + ended.err), f"control characters: {said!r}"


# ------------------------------------------------------------------------------------------------------ the files


def snapshot(root: Path) -> dict[str, tuple[Any, ...]]:
    """Return kind and content of everything below a folder, by path; links are not followed."""
    found: dict[str, tuple[Any, ...]] = {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        for name in (*folders, *files):
            path = os.path.join(folder, name)  # noqa: PTH118 - names that are not UTF-8
            found[os.path.relpath(path, os.fsencode(root)).decode(errors="surrogateescape")] = _state(path)
    return found


def _state(path: bytes) -> tuple[Any, ...]:
    state = os.lstat(path)
    if stat.S_ISLNK(state.st_mode):
        return "link", os.readlink(path)  # noqa: PTH115 - bytes
    if not stat.S_ISREG(state.st_mode):
        return (stat.S_IFMT(state.st_mode),)
    with open(path, "rb") as file:  # noqa: PTH123
        return "file", state.st_size, hashlib.file_digest(file, "sha256").hexdigest()


def differences(
    before: Mapping[str, object], after: Mapping[str, object], allowed: tuple[str, ...] = ()
) -> dict[str, str]:
    """Return what became of each path that is not the same in two snapshots, except those of some patterns."""
    found = {}
    for path in sorted({*before, *after}):
        if before.get(path) == after.get(path) or any(fnmatch.fnmatch(path, pattern) for pattern in allowed):
            continue
        found[path] = "made" if path not in before else "deleted" if path not in after else "changed"
    return found
