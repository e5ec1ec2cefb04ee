"""The reader of whole files and the parser of JSON: what they refuse, at once and in one line."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from evolve.files import UnreadableFileError, parse_json, read_bytes, read_json, read_text, shown


def test_a_regular_file_is_read(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("grüße\r\nzwei\rdrei".encode())
    (tmp_path / "link").symlink_to(path)

    assert read_bytes(tmp_path / "link", 30) == path.read_bytes()
    assert read_text(path, 30) == "grüße\nzwei\ndrei"


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfname: a")

    assert read_text(tmp_path / "a.txt", 30) == "name: a"


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def _socket(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "s"))
    return folder / "s"


def _link_to_a_device(folder: Path) -> Path:
    (folder / "zero").symlink_to("/dev/zero")
    return folder / "zero"


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (_pipe, "a named pipe"),
        (_socket, "a socket"),
        (_link_to_a_device, "a device"),
        (lambda folder: folder, "a folder"),
    ],
)
def test_only_regular_files_are_read(make, kind, tmp_path):
    path = make(tmp_path)

    with pytest.raises(UnreadableFileError) as caught:
        read_bytes(path, 10)

    assert str(caught.value) == f"{path}: is {kind}, not a regular file"


def test_a_file_that_is_too_long_is_not_read(tmp_path):
    path = tmp_path / "long"
    path.write_bytes(b"x" * 11)

    with pytest.raises(UnreadableFileError, match="is longer than 10 bytes"):
        read_bytes(path, 10)
    assert read_bytes(path, 11) == b"x" * 11


def test_errors_of_the_system_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "none", 10)
    with pytest.raises(UnreadableFileError, match="no file can have this name"):
        read_bytes(Path("a\0b"), 10)


def test_text_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"\xff\xfe")

    with pytest.raises(UnreadableFileError, match="is not UTF-8 text"):
        read_text(tmp_path / "a", 10)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "Expecting property name"),
        (b"[" * 200_000, "it is nested too deeply"),
        (b"[" * 200 + b"]" * 200, "it is nested too deeply"),
        (b"1" * 400, "it has a number of 400 digits"),
        (b"1" * 5000, "it has a number of 5000 digits"),
        (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
        (b'{"a": "\\ud83d"}', "it has half of a surrogate pair"),
    ],
)
def test_json_that_is_refused(data, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        parse_json(data)

    assert "\n" not in str(caught.value)


def test_json_of_models_may_have_constants_and_large_numbers(tmp_path):
    (tmp_path / "a").write_text(f'{{"most": {10**30}, "limit": [0.0, Infinity]}}')

    assert read_json(tmp_path / "a", 100) == {"most": 10**30, "limit": [0.0, float("inf")]}


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e400"])
def test_json_with_finite_numbers_only(number):
    with pytest.raises(ValueError, match="is not finite"):
        parse_json(f"[{number}]", finite=True)


def test_json_with_unique_keys_only():
    assert parse_json('{"a": 1, "a": 2}') == {"a": 2}
    with pytest.raises(ValueError, match="it has the key 'a' twice"):
        parse_json('{"a": 1, "a": 2}', unique=True)


def test_values_are_shown_on_one_line():
    assert shown("a\nb\x1b[31m é") == "a\\nb\\x1b[31m é"
    assert shown("x" * 1000) == "x" * 117 + "..."
    assert shown("\n" * 1000) == "\\n" * 58 + "\\..."
    assert shown(None) == "None"
