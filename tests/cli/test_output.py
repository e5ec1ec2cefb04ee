"""Printed text: wrapped at words on a terminal, not wrapped elsewhere, without control characters."""

from __future__ import annotations

import fcntl
import io
import itertools
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from evolve.cli import output
from evolve.cli.output import print_text, say, show
from evolve.views.text import Facts, View

WIDTHS = [1, 7, 20, 40, 79, 80, 200]
LONG = "/a/very/long/path/of/a/model/that/no/narrow/terminal/shows/in/one/line/config.yaml"
MESSAGE = f"evolve: {LONG}: strategy.top_k = 1: it must be a whole number of at least 2; 日本語 の 名前 is not a number"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(text: str, width: int, *, terminal: bool = True) -> list[str]:
    file = _Terminal() if terminal else io.StringIO()
    print_text(Console(file=file, width=width), Text(text))
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", WIDTHS)
def test_no_word_is_broken_on_a_terminal(width):
    lines = printed(MESSAGE, width)

    assert " ".join(lines).split() == MESSAGE.split()
    assert all(cell_len(line) <= width or " " not in line for line in lines)
    assert not [line for line in lines if line != line.strip()]


@pytest.mark.parametrize("width", [20, 40, 79])
def test_lines_are_filled_on_a_terminal(width):
    lines = printed(MESSAGE, width)

    for line, following in itertools.pairwise(lines):
        assert cell_len(line) + 1 + cell_len(following.split()[0]) > width


def test_an_indented_line_keeps_its_form():
    table = "  key              then  now\n  strategy.top_k   3     4\n"

    assert printed(f"the settings differ in:\n{table}", 20) == ["the settings differ", "in:", *table.splitlines(), ""]


@pytest.mark.parametrize("width", WIDTHS)
def test_without_a_terminal_no_line_is_wrapped(width):
    assert printed(f"{MESSAGE}\n\n  a   b", width, terminal=False) == [MESSAGE, "", "  a   b"]


def test_control_characters_are_not_printed(capsys):
    say("a\x1b[2Jb\x07 [red]c[/red]\td")

    assert capsys.readouterr().out == "ab  [red]c[/red] d\n"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("make", [Text, lambda text: Facts([("folder", text)])], ids=["text", "facts"])
def test_a_view_does_not_break_its_longest_word(width, make, monkeypatch):
    file = _Terminal()
    monkeypatch.setattr(output, "Console", lambda: Console(file=file, width=width))

    show(View(make(f"the folder is {LONG}")))

    assert LONG in file.getvalue()


@pytest.mark.parametrize("width", [20, 60, 120])
def test_the_command_wraps_errors_for_the_width_of_its_terminal(tmp_path, width):
    config = tmp_path / "no such folder" / "run.yaml"
    lines = on_terminal(["check", str(config)], width)

    assert (
        " ".join(lines).split()
        == (f"evolve: {config}: there is no such file; give the path of a configuration file").split()
    )
    assert all(len(line) <= width or " " not in line for line in lines)
    assert len(lines) > 1


def test_wrong_arguments_are_wrapped_like_errors():
    assert on_terminal(["tree"], 20) == ["evolve: Missing", "argument 'RUN'. See", "`python -m evolve", "tree --help`."]


def on_terminal(arguments: list[str], width: int) -> list[str]:
    """Return the lines that the command prints to a terminal of some width."""
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "evolve", *arguments],
        env={name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}},
        cwd=Path(output.__file__).parents[2],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    seen = b""
    while True:
        try:
            part = os.read(screen, 4096)
        except OSError:  # Linux: the process has ended
            break
        if not part:
            break
        seen += part
    os.close(screen)
    process.wait(30)
    return seen.decode().replace("\r\n", "\n").splitlines()
