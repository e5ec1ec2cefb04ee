"""The parser of YAML: unique keys, and a bound for everything that could grow without end."""

from __future__ import annotations

import pytest

from evolve.yaml import YamlError, parse_yaml

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 60))


def test_aliases_and_merge_keys_are_expanded():
    text = "a: &a {x: 1, y: [2.5, null, true]}\nb: {<<: *a, x: 3}\nc: *a\n"

    a = {"x": 1, "y": [2.5, None, True]}
    assert parse_yaml(text) == {"a": a, "b": {"x": 3, "y": a["y"]}, "c": a}


def test_an_empty_text_is_null():
    assert parse_yaml("# nothing\n") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {c: 1, c: 2}", "line 2: the key 'c' is also in line 2; keep one of the two"),
        ("1: a", "line 1: the key 1 is not a string; put it in quotes"),
        ("a: &a [*a]", "line 1: an alias in it refers to the value itself; write it without an alias"),
        ("a: &a {b: {c: *a}}", "line 1: an alias in it refers to the value itself; write it without an alias"),
        (LAUGHS, "line 5: it has more than 10000 values, with its aliases expanded; shorten it"),
        (f"a: [{'1,' * 20_000}]", "line 1: it has more than 10000 values, with its aliases expanded; shorten it"),
        (CHAIN, "line 50: not valid YAML: it is nested too deeply; fix the brackets"),
        ("[" * 200_000, "line 1: not valid YAML: it is nested too deeply; fix the brackets"),
        ("- " * 3000, "line 1: not valid YAML: it is nested too deeply; fix the brackets"),
        (f"a: {'7' * 400}", "line 1: the number has 400 digits; give a smaller one"),
        (f"a: 0x{'f' * 9000}", "line 1: the number has 9002 digits; give a smaller one"),
        ('a: "\\ud83d"', "line 1: not valid YAML: half of a surrogate pair; write the character itself"),
        ("a: !!bool 7", "not valid YAML: a tag does not fit its value (KeyError('7')); remove the tag"),
        ("a: !!python/name:os.system ''", "could not determine a constructor for the tag"),
    ],
)
def test_text_that_is_refused(text, message):
    with pytest.raises(YamlError) as caught:
        parse_yaml(text)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
