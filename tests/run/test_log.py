"""The log of a run: it is shown by `cat`, so it has no control characters, and no link is followed."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from drive import Drivers

from evolve.run.executors import Call, LocalExecutor, run_call
from evolve.run.log import logging_to, open_log

ESCAPES = "\x1b[2J\x07\x9b31m\u202e"
HIDDEN = set("\x1b\x07\x9b\u202e")


def _log(path: Path, message: str) -> None:
    log = logging.getLogger("evolve.run")
    with logging_to(path, log):
        try:
            raise ValueError(message)  # noqa: TRY301
        except ValueError:
            log.exception("%s", message)


def test_a_record_has_no_control_characters(tmp_path: Path) -> None:
    _log(tmp_path / "run.log", f"one {ESCAPES} two")
    text = (tmp_path / "run.log").read_text(encoding="utf-8")
    assert not HIDDEN & set(text)
    assert text.count("one ") == text.count(" two\n") == 2
    assert "\nTraceback (most recent call last):\n" in text


def _print(job: str, report: object) -> None:
    print(job)
    logging.getLogger("engine").info("%s", job)
    os.write(1, b"from C\n")


def test_the_output_of_an_engine_has_no_control_characters(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    executor = LocalExecutor(lambda *_: None, "cpu")
    executor.redirect(tmp_path / "run.log", tmp_path / "scratch")
    try:
        run_call(executor, Call("print", _print, f"one {ESCAPES}\udcff two"))
    finally:
        executor.close()
    text = (tmp_path / "run.log").read_text(encoding="utf-8")
    assert not HIDDEN & set(text)
    assert text.count("one ") == text.count(" two\n") == 2
    assert "from C\n" in text


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_log_that_is_a_link_or_a_pipe_is_not_opened(kind: str, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("text")
    if kind == "link":
        (tmp_path / "run.log").symlink_to(tmp_path / "precious")
    else:
        os.mkfifo(tmp_path / "run.log")
    with pytest.raises(OSError, match=r"run\.log"):
        open_log(tmp_path / "run.log")
    assert (tmp_path / "precious").read_text() == "text"


def test_a_reason_that_is_not_utf8_is_recorded(tmp_path: Path, drivers: Drivers, config: Path) -> None:
    """An engine may name a file whose name is not UTF-8."""
    ended = drivers(tmp_path / "run", config, EVOLVE_FAKE="merge:model-1-1:unnamed")
    assert ended.code == 0, ended.message
    assert "no file /x?" in (tmp_path / "run" / "journal.jsonl").read_text()
