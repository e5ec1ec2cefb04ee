"""Fixtures: the command in this process, a family of tiny files, and a finished run with fake engines."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from executors import InlineExecutor
from fakes import FAKE, write_family

from evolve.cli import driving, main
from evolve.config import load_config
from evolve.engines.protocols import Engines, Report
from evolve.run.executors import LocalExecutor, Progress
from evolve.run.observer import Silent
from evolve.run.session import Session


@dataclass(frozen=True)
class Answer:
    """The exit code and the outputs of a command."""

    code: int
    out: str
    err: str


Command = Callable[..., Answer]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that calls `evolve` in this process, with a width that no message exceeds."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str | Path) -> Answer:
        monkeypatch.setattr(sys, "argv", ["evolve", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return Answer(code if isinstance(code, int) else 0, *capsys.readouterr())

    return call


@pytest.fixture
def fake_family(tmp_path: Path) -> Path:
    """Write a family of a base model and the foundations A, B and C; return its configuration."""
    return write_family(tmp_path / "family")


class _Shared(LocalExecutor):
    """A worker that the command does not close."""

    def close(self) -> None:
        """Do nothing; the fixture closes it."""


@pytest.fixture(scope="module")
def worker() -> Iterator[LocalExecutor]:
    """Return one worker for the commands of a module, because loading the engines takes seconds."""
    executor = _Shared(lambda *_: None)
    yield executor
    LocalExecutor.close(executor)


@dataclass(frozen=True)
class Inline:
    """Fake engines that run in this process."""

    engines: Engines = FAKE

    @staticmethod
    def executors(progress: Progress, device: str) -> InlineExecutor:
        return InlineExecutor(progress, device)


@pytest.fixture
def inline() -> Inline:
    return Inline()


def do_run(config: Path, run: Path, *overrides: str) -> Path:
    """Complete a run with fake engines in this process."""
    session = Session(FAKE, Silent(), executors=Inline.executors)
    session.run(load_config(config, overrides), run)
    return run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run that no test changes."""
    folder = tmp_path_factory.mktemp("finished_run")
    return do_run(write_family(folder / "family"), folder / "run")


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    """Return a copy of a finished run that the test may change."""
    shutil.copytree(finished_run, tmp_path / "run")
    return tmp_path / "run"


def _refuse(job: Any, report: Report, device: str = "auto") -> Any:
    pytest.fail(f"an engine began {job}")


CHECKS_ONLY = replace(FAKE, merge=_refuse, evaluate=_refuse, measure=_refuse)
"""Fake engines that check inputs and fail the test if a merge, an evaluation or a measurement begins."""


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if a worker starts."""
    monkeypatch.setattr(LocalExecutor, "submit", lambda *_: pytest.fail("a worker was started"))


@pytest.fixture
def no_work(no_engine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands check inputs with fake engines; fail the test if a worker starts or a step begins."""
    monkeypatch.setattr(driving, "REAL", CHECKS_ONLY)
    monkeypatch.setattr(driving, "Session", partial(Session, executors=InlineExecutor))


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return mode, modification time and content of all files and folders in a folder, by path."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        state = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(folder))] = (state.st_mode, state.st_mtime_ns, content)
    return found


@pytest.fixture
def refused(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that calls a command, asserts that it is refused, and returns its message."""
    monkeypatch.chdir(tmp_path)  # so that files in the working directory are detected

    def refused(*arguments: str | Path, words: tuple[str, ...], lines: int = 1) -> str:
        before = snapshot(tmp_path)
        answer = command(*arguments)
        message = answer.err.removeprefix("evolve: ").rstrip("\n")
        assert answer.code == 2, answer.out + answer.err
        assert answer.err.startswith("evolve: ")
        assert not answer.out
        assert len(message.split("\n")) == lines, message
        assert not [word for word in words if word not in message], message
        assert not any(jargon in message for jargon in ("Traceback", "Error(", "pydantic", "NoneType")), message
        assert snapshot(tmp_path) == before
        return message

    return refused
