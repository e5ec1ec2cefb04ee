"""Hidden characters: what a terminal obeys is not shown, and JSON has escapes for it."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest

from evolve.characters import escaped, visible

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
TAGS = "\U000e0001\U000e0041\U000e007f"
HIDDEN = [
    character
    for character in map(chr, range(sys.maxunicode + 1))
    if unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} or character in BIDI + TAGS
]


def test_no_character_that_a_terminal_obeys_is_visible():
    hidden = [character for character in HIDDEN if character != "\n"]

    assert len(hidden) > 2100
    assert not [hex(ord(character)) for character in hidden if visible(f"a{character}b") not in {"a b", "ab"}]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mred\x1b[0m", "ared"),
        ("\x1b]0;title\x07text", "]0;title text"),
        ("\x9b31mred", " 31mred"),
        ("one\r\ntwo\n\tthree", "one \ntwo\n three"),
        ("a\u2028b\u2029c\x85d\u00a0e", "a b c d e"),
        ("user\u202egpj.exe", "user gpj.exe"),
        ("\udcff", " "),
        ("日本 é 👩\u200d🔬", "日本 é 👩\u200d🔬"),
        ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e"),
    ],
)
def test_visible_text_keeps_its_lines_and_letters(text, shown):
    assert visible(text) == shown


@pytest.mark.parametrize("ascii_only", [False, True])
def test_escaped_json_has_no_hidden_character_and_means_the_same(ascii_only):
    data = {" ".join(HIDDEN): ["é", "日本", {"x": "\U000e0041"}]}

    text = escaped(json.dumps(data, indent=2, ensure_ascii=ascii_only))

    assert json.loads(text) == data
    assert not set(text) & (set(HIDDEN) - {"\n"})
    assert ascii_only or "é" in text
