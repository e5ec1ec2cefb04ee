"""The display of a run: bars on a terminal, plain lines in a pipe."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from evolve.cli import display as displays
from evolve.cli.display import Bars, Display, display
from evolve.config import load_config
from evolve.run.folder import RunFolder
from evolve.run.journal import read_journal, tree_of
from evolve.run.session import Session

SUPPORT = Path(__file__).parents[1] / "support"
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def _console(width: int = 120, *, terminal: bool = True, encoding: str = "utf-8") -> Console:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    return Console(file=file, force_terminal=terminal, width=width, legacy_windows=False)


def _written(console: Console) -> str:
    assert isinstance(console.file, io.TextIOWrapper)
    written = console.file.buffer
    assert isinstance(written, io.BytesIO)
    return written.getvalue().decode(console.file.encoding)


def _text(console: Console) -> str:
    return CONTROL.sub("", _written(console))


@pytest.fixture
def watched(fake_family, tmp_path, inline):
    """Return a function that completes a run with fake engines and a display."""

    def watched(watching: Display) -> None:
        with watching:
            Session(inline.engines, watching, executors=inline.executors).run(
                load_config(fake_family), tmp_path / "run"
            )

    return watched


def test_bars_of_run_generation_and_step_are_below_the_events(watched, monkeypatch):
    console = _console()
    bars = Bars(console)
    shown: list[str] = []
    working = bars.working

    def look(call_id: str, words: str, done: int, total: int) -> None:
        working(call_id, words, done, total)
        bars._progress.refresh()
        shown.append(_text(console).split("\r")[-1])

    monkeypatch.setattr(bars, "working", look)
    watched(bars)

    text = _text(console)
    assert re.search(r"\d\d:\d\d:\d\d model-1-1: merged in 0.2 s", text)
    assert re.search(r"fake: best is model-1-1 with \d+\.\d+ +\S+ generation 2 of 4 +0:00:\d\d", text)
    assert re.search(r"generation 2, about 0\.\d s left +\S+ 3 of 4 models", text)
    assert re.search(r"evaluate model-2-exp: scoring +\S+ [01] of 1 ", text)
    assert re.search(r"foundations, about 0\.\d s left +\S+ 2 of 3 models", text)
    assert "no score yet" in text
    assert any("merge model-1-1: merging" in frame for frame in shown)


def test_a_resumed_run_shows_its_position_at_once(finished_run):
    console = _console()
    with Bars(console) as bars:
        bars.show_position(RunFolder.open(finished_run).read_tree())
        bars._progress.refresh()

    assert re.search(r"fake: best is model-1-1 with \S+ +\S+ generation 3 of 4 ", _text(console))
    assert re.search(r"generation 3 +\S+ 3 of 3 models", _text(console))


def test_a_generation_with_dropped_and_estimated_children_is_done():
    golden = Path(__file__).parents[1] / "run" / "golden" / "journal-2-racing.jsonl"
    entries = read_journal(golden)
    last = max(number for number, entry in enumerate(entries) if entry.event.type == "model_dropped")
    console = _console()
    with Bars(console) as bars:
        tree = tree_of(entries[: last + 1], golden)
        bars.show_position(tree)
    done = [model for model in tree.children_of(tree.generation) if model.status in {"evaluated", "dropped"}]
    assert any(model.status == "dropped" for model in done)
    assert f"{len(done)} of {len(tree.children_of(tree.generation))} models" in _text(console)


@pytest.mark.parametrize(
    ("done", "total", "expected"),
    [(0, 0, ""), (3, 0, ""), (5, 3, "3 of 3"), (0, 3, "0 of 3"), (3_000_000, 4_000_000, "75 %"), (1, -1, "")],
)
def test_a_bar_shows_any_count(done, total, expected):
    console = _console()
    with Bars(console) as bars:
        bars.working("evaluate model-1-1", "scoring [bold]gsm8k[/nothing]", done, total)
        bars._progress.refresh()

    assert re.search(rf"evaluate model-1-1: scoring \[bold\]gsm8k\[/nothing\] +\S+ +{expected} ", _text(console))


@pytest.mark.parametrize("width", [1, 20, 40, 80])
def test_bars_fit_on_one_line_at_any_width(width):
    console = _console(width)
    with Bars(console) as bars:
        bars.working("evaluate " + "a" * 200, "scoring\nwinogrande", 1, 2)
        bars._progress.refresh()

    margin = 3 if width >= 40 else 0
    assert all(len(line) <= width - margin for line in re.split("[\r\n]", _text(console)))


def test_each_step_has_its_own_clock(monkeypatch):
    with Bars(_console()) as bars:
        clock = iter(range(0, 1000, 10))
        monkeypatch.setattr(bars._progress, "get_time", lambda: float(next(clock)))
        step = bars._progress.tasks[2]
        bars.working("merge a", "merging", 0, 2)
        began = step.start_time
        bars.working("merge a", "merging", 1, 2)
        assert step.start_time == began
        bars.working("merge b", "merging", 0, 2)
        assert step.start_time != began


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_lines_in_a_pipe_are_plain_and_not_wrapped(watched, encoding):
    console = _console(40, terminal=False, encoding=encoding)
    watched(Display(console))

    lines = _written(console).splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d \S", line) for line in lines)
    times = "×" if encoding == "utf-8" else "x"
    assert any(line.endswith(f"model-1-3 = B {times} C") or f"model-1-2 = A {times} C" in line for line in lines)
    assert not any("\x1b" in line for line in lines)
    left = [line for line in lines if "time left: about " in line]
    assert [int(re.search(r"for generation (\d), at most about ", line)[1]) for line in left] == [1, 2, 3]


def test_a_long_step_prints_one_line_a_minute_in_a_pipe(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    console = _console(terminal=False)
    plain = Display(console)
    for second in range(0, 130, 10):
        now[0] = float(second)
        plain.working("evaluate A", "scoring", second, 200)
    now[0] = 500.0
    plain.working("evaluate A", "loading", 0, 0)

    printed = [line.partition(" ")[2] for line in _text(console).splitlines()]
    assert printed == ["evaluate A: scoring, 60 of 200", "evaluate A: scoring, 120 of 200", "evaluate A: loading"]


def test_control_characters_of_an_engine_do_not_reach_the_terminal():
    console = _console(terminal=False)
    Display(console).note("A: failed: \x1b[2Jcleared\x07[red]not markup[/red]")
    assert _written(console).rstrip().endswith("A: failed: cleared [red]not markup[/red]")


def test_only_a_terminal_gets_bars(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes any file a terminal for rich
    assert type(display()) is Display
    assert displays._Steady(file=io.StringIO(), force_terminal=True).is_terminal


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_ctrl_c_does_not_disturb_the_terminal(fake_family, tmp_path, times):
    screen, terminal = pty.openpty()
    step = "evaluate" if times == 1 else "merge"  # the first Ctrl-C waits for a merge, the second does not
    process = subprocess.Popen(
        [sys.executable, SUPPORT / "fake_evolve.py", "run", fake_family, "--run-dir", tmp_path / "run"],
        env={**os.environ, "EVOLVE_FAKE": f"{step}:model-1-1:sleep60", "TERM": "xterm", "COLUMNS": "100"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    seen = _read_until(screen, f"{step} model-1-1: ")
    process.send_signal(signal.SIGINT)
    if times == 2:
        seen += _read_until(screen, "again to stop")
        process.send_signal(signal.SIGINT)
    seen += _read_until(screen, None)
    os.close(screen)

    assert process.wait(30) == 130
    assert "\x1b[?25l" not in seen
    assert "generation 1 of 4" in CONTROL.sub("", seen)
    assert "Traceback" not in seen
    if times == 1:
        last = " ".join(seen.split("stopping at the next safe point")[-1].split())  # without the line breaks
        assert "evolve: interrupted by SIGINT; nothing is lost, " in last
        assert f"`evolve resume {tmp_path / 'run'}`" in last


def _read_until(screen: int, words: str | None) -> str:
    """Return the output of a terminal up to some words, or up to the end of its last process."""
    seen = b""
    while words is None or words.encode() not in seen:
        try:
            part = os.read(screen, 4096)
        except OSError:  # Linux: no process has the terminal open
            break
        if not part:
            break
        seen += part
    return seen.decode()


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ValueError("I/O operation on closed file.")])
@pytest.mark.parametrize("bars", [True, False], ids=["bars", "lines"])
def test_a_display_that_is_lost_does_not_disturb_the_run(
    *, watched, tmp_path, monkeypatch, error: Exception, bars: bool
):
    """An exception in the thread that moves the bars would also fail the test."""

    class Closing(io.StringIO):
        writes = 0

        def isatty(self) -> bool:
            return bars

        def write(self, text: str) -> int:
            Closing.writes += 1
            if Closing.writes > 5:
                raise error
            return super().write(text)

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", Closing())
    watching = display()
    assert isinstance(watching, Bars) == bars
    watched(watching)

    assert Closing.writes == 6
    assert (tmp_path / "run" / "family_tree.json").exists()
    (line,) = [line for line in (tmp_path / "run" / "run.log").read_text().splitlines() if "without it" in line]
    assert f"the output cannot be written ({error.args[-1]}); the run goes on without it" in line
