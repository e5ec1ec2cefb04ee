"""Commands that print results: output that is lost is noticed, and nothing gives a traceback."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from evolve.cli.streams import OutputLost, Stream

READERS = [
    ["status", "{run}", "--json"],
    ["tree", "{run}"],
    ["show", "{run}", "A"],
    ["compare", "{run}", "--json"],
    ["--help"],
    ["--version"],
]


def _evolve(*arguments: str | Path, env: Mapping[str, str] | None = None, **options: Any) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "evolve", *map(str, arguments)],
        env={**os.environ, **(env or {})},
        check=False,
        timeout=60,
        **{"stderr": subprocess.PIPE, "text": True, **options},
    )


def _close(*numbers: int) -> Callable[[], None]:
    def close() -> None:
        for number in numbers:
            os.close(number)

    return close


@pytest.mark.parametrize("arguments", READERS, ids=" ".join)
def test_a_full_disk_gives_one_message(finished_run, arguments):
    with Path("/dev/full").open("w") as full:
        done = _evolve(*(argument.format(run=finished_run) for argument in arguments), stdout=full)

    assert done.returncode == 1
    assert done.stderr == "evolve: the output cannot be written (No space left on device)\n"


@pytest.mark.parametrize("arguments", READERS[:2], ids=" ".join)
def test_a_closed_output_gives_one_message(finished_run, arguments):
    done = _evolve(*(argument.format(run=finished_run) for argument in arguments), preexec_fn=_close(1))

    assert done.returncode == 1
    assert done.stderr == "evolve: the output cannot be written (Bad file descriptor)\n"


@pytest.mark.parametrize("numbers", [(0,), (2,), (0, 2)], ids=str)
def test_other_closed_descriptors_do_not_matter(finished_run, numbers):
    whole = _evolve("tree", finished_run, stdout=subprocess.PIPE)
    done = _evolve("tree", finished_run, stdout=subprocess.PIPE, preexec_fn=_close(*numbers))

    assert (done.returncode, done.stdout) == (0, whole.stdout)


def test_an_error_without_standard_error_keeps_its_exit_code(tmp_path):
    assert _evolve("tree", tmp_path / "none", preexec_fn=_close(1, 2)).returncode == 2
    with Path("/dev/full").open("w") as full:
        assert _evolve("tree", tmp_path / "none", stderr=full).returncode == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_name_that_the_encoding_lacks_gives_a_message(tmp_path, encoding):
    """A name that is not UTF-8 cannot be printed in any encoding."""
    folder = os.fsencode(tmp_path) + b"/\xff-\xc3\xbc-\xe6\x97\xa5"
    done = _evolve("tree", os.fsdecode(folder), env={"PYTHONIOENCODING": encoding}, text=False)

    assert done.returncode == 2
    assert b": its path is not UTF-8; rename the folder" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ValueError("I/O operation on closed file.")])
@pytest.mark.parametrize("method", ["write", "flush"])
def test_a_stream_that_failed_once_is_not_used_again(error, method, monkeypatch):
    inner, calls = io.StringIO(), []

    def fail(*_: object) -> None:
        calls.append(method)
        raise error

    monkeypatch.setattr(inner, method, fail)
    strict, lenient = Stream(inner, strict=True), Stream(inner, strict=False)
    for _ in range(2):
        with pytest.raises(
            OutputLost, match=r"cannot be written \((Input/output error|I/O operation on closed file.)\)"
        ):
            print("text", file=strict, flush=True)
    assert calls == [method]
    for _ in range(2):
        assert lenient.write("text") == 4
        lenient.flush()
    assert calls == [method, method]
    assert lenient.lost is not None


# --------------------------------------------------------------------------------------------------- the environment

ODD = {
    "no width": {"COLUMNS": "0", "LINES": "0"},
    "a width that is no number": {"COLUMNS": "x", "LINES": "²", "TERMINAL_WIDTH": "x"},
    "a superscript": {"COLUMNS": "²"},
    "a huge width": {"COLUMNS": "9" * 400},
    "a dumb terminal": {"TERM": "dumb"},
    "the locale C": {"LANG": "C", "LC_ALL": "C"},
    "no temporary folder": {"TMPDIR": "/nowhere"},
    "a cache that is a file": {"EVOLVE_CACHE_DIR": "/dev/null"},
}


@pytest.mark.parametrize("env", ODD.values(), ids=ODD)
def test_an_odd_environment_does_not_matter(finished_run, env):
    for arguments in (["status", finished_run], ["--help"]):
        done = _evolve(*arguments, stdout=subprocess.PIPE, env=env)
        assert (done.returncode, done.stderr) == (0, "")
        assert "fake" in done.stdout or "Usage" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "~nosuchuser/run"],
        ["resume", "~nosuchuser/run"],
        ["compare", "~nosuchuser/run"],
        ["check", "~nosuchuser/x.yaml"],
        ["run", "x.yaml", "--run-dir", "~nosuchuser/run"],
        ["kinship", "--base", "~nosuchuser/run", "a", "b"],
        ["nursery", "~nosuchuser/run"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_the_home_folder_of_an_unknown_user_is_refused(refused, arguments):
    refused(*arguments, words=("~nosuchuser", "the home folder of ~nosuchuser is not known", "give the whole path"))


def test_a_home_folder_is_found(command, finished_run, monkeypatch):
    monkeypatch.setenv("HOME", str(finished_run.parent))

    assert command("status", "~/run").code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "run"],
        ["tree", "run"],
        ["show", "run", "A"],
        ["compare", "run"],
        ["resume", "run"],
        ["run", "x.yaml"],
        ["check", "x.yaml"],
        ["kinship", "--base", "a", "b", "c"],
        ["nursery", "n"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_working_directory_that_was_deleted_is_named(command, tmp_path, monkeypatch, arguments):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    answer = command(*arguments)

    assert answer.code == 2
    assert answer.err == (
        "evolve: the working directory cannot be used (No such file or directory); change to another one\n"
    )
