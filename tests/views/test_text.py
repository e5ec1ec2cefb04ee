import io

import pytest
from rich.console import Console
from rich.text import Text

from evolve.views.text import Facts, Table, View, one_line, plain, wrap_words


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("one two three", 8, ["one two", "three"]),
        ("one two three", 13, ["one two three"]),
        ("averylongword one two", 5, ["averylongword", "one", "two"]),
        ("one averylongword two", 5, ["one", "averylongword", "two"]),
        ("  indented text", 10, ["  indented", "text"]),
        ("one\n\ntwo", 8, ["one", "", "two"]),
        ("日本 日本 日本", 9, ["日本 日本", "日本"]),
        ("", 5, [""]),
    ],
)
def test_text_is_wrapped_between_words_only(text, width, lines):
    assert [line.plain for line in wrap_words(Text(text), width)] == lines


def test_a_command_keeps_its_own_lines():
    assert [line.plain for line in wrap_words(Text("one two\nthree four", no_wrap=True), 3)] == [
        "one two",
        "three four",
    ]


def test_text_is_not_wrapped_if_the_reader_wraps_it():
    file = io.StringIO()
    Console(file=file, width=10).print(View(Text("one two three four")), soft_wrap=True)
    assert file.getvalue() == "one two three four\n"


def lines(part, width):
    return [line.plain.rstrip() for line in part.lines(width)]


def test_a_value_that_does_not_fit_beside_its_label_is_below_it():
    facts = Facts([("label", "value"), ("path", "/" + "x" * 25), ("list", "a\nb")])
    assert lines(facts, 30) == ["label  value", "path", "  /" + "x" * 25, "list   a", "       b"]
    assert lines(facts, 20) == ["label", "  value", "path", "  /" + "x" * 25, "list", "  a", "  b"]


def test_a_table_that_does_not_fit_is_stacked():
    cells = [[Text("task"), Text("points"), Text("gain")], [Text("gsm8k"), Text("5.0"), Text("+1")]]
    table = Table(cells[0], [cells[1], []], footer=[Text("all"), Text("50.0"), Text("")], right=(2,))
    assert table.width == 19
    assert lines(table, 19) == [
        "task   points  gain",
        "─" * 19,
        "gsm8k  5.0       +1",
        "",
        "─" * 19,
        "all    50.0",
    ]
    assert lines(table, 18) == ["gsm8k", "  points 5.0", "  gain +1", "all", "  points 50.0"]


def test_text_from_outside_has_no_control_characters():
    assert plain(" \x1b[31mred\x1b[0m\tand\x07 more\n next ") == "red and  more\n next"
    assert one_line("first \nsecond") == "first"


def test_a_view_shows_no_control_character_of_any_text():
    hostile = "a\x1b[2J\x07b\u202ec\x9bd\udcff\te"
    parts = (Text(hostile), Facts([(hostile, hostile)]), Table([Text(hostile)], [[Text(hostile)]]))
    for width in (20, 200):
        file = io.StringIO()
        Console(file=file, width=width, force_terminal=True, color_system=None).print(View(*parts), crop=False)
        shown = file.getvalue()
        assert shown.count("a") == 5
        assert not set(shown) & set("\x1b\x07\u202e\x9b\udcff\t")
