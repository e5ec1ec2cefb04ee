"""Strategies that change valid files: their structure, their text and their bytes."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NoReturn

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

SECONDS = 10
FEW, MANY = 40, 3000

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 10**9, 2**31, 2**32, 2**63, 2**64, 10**30, 10**299, 10**399, -(10**30)),
    *(0.0, -0.0, 0.5, -1.5, 5e-324, 1e-7, 1e308, float("nan"), float("inf"), float("-inf")),
    *(
        "",
        " ",
        "a",
        "1",
        "nan",
        "1e400",
        "\0",
        "\n",
        "a\nb",
        "\x1b[31m",
        "é",
        "\U0001f600",
        "../../x",
        "/etc",
        "/dev/zero",
    ),
    *(
        "~nosuchuser",
        "a+b",
        "a@b",
        "x" * 101,
        "y" * 300,
        "z" * 5000,
        "{{ 'a' * 10**11 }}",
        "{% for x in y %}",
        "{{",
        "%s",
    ),
    *("A", "base_model", "model-1-1", "acc,none", "F32", "float32", "auto", "union", "2024-01-31", "2024-13-45"),
    *([], {}, [[]], [None], {"": None}, {"a": {"b": [1]}}, [0, 1], [1, 0], [2**63, 2**63], ["a", "a"], {"path": "a"}),
)
SNIPPETS = (
    *("&a [*a]", "*a", "[" * 300, "{" * 300, "- " * 300, "!!binary x", "!!python/name:os.system", "<<: *a", "? ", ": "),
    *(".nan", "1.0e+400", "2024-13-45", "2024-01-31", "1:1:1:1", "0x" + "f" * 400, "9" * 400, "9" * 5000, "yes", "~"),
    *(
        "{{ parent_1 }}",
        "{{ num_layers }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ 'a' * 10**11 }}",
        "{% for x in [1, 2] %}",
        "{% endfor %}",
    ),
    *(
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{% set x = 1 %}",
        "{{ 1 / 0 }}",
        "{{ x.__class__ }}",
        "{#",
        "#}",
    ),
    *(
        "\t",
        "\r",
        "\0",
        "\x85",
        "\u2028",
        "\ufeff",
        "\x1b[31m",
        '"',
        "'",
        "\\",
        "\\ud800",
        "---\n",
        "...\n",
        "#",
        "null",
        "1e400",
    ),
    *('"a": 1, "a": 2', "NaN", "Infinity", "-0", "[]", "{}", "true", "version ", "\n\n", "a: 1\na: 2\n", "&a ", "!x "),
)


def explore(strategy: st.SearchStrategy[Any], check: Callable[[Any], None], examples: int) -> None:
    """Check many changed files: always the same few, or, in a long run, new ones each time. None may take long."""

    @settings(
        max_examples=examples,
        derandomize=examples <= FEW,
        database=None,
        deadline=None,
        phases=[Phase.generate] if examples <= FEW else [Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(changed: Any) -> None:
        with _limited():
            check(changed)

    run()


@contextmanager
def _limited() -> Iterator[None]:
    """Fail where the content computes for more than ten seconds, or waits for more than a minute."""

    def fail(*_: object) -> NoReturn:
        raise AssertionError("it took too long")

    before = {number: signal.signal(number, fail) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(6 * SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)


@st.composite
def structures(draw: st.DrawFn, good: Any) -> Any:
    """Draw a JSON value with up to three changed, removed, repeated or nested parts."""
    value = {"": deepcopy(good)}
    for _ in range(draw(st.integers(1, 3))):
        node, key = draw(st.sampled_from(list(_places(value))))
        match draw(st.sampled_from(("replace", "replace", "remove", "copy", "nest", "add"))):
            case "remove" if node is not value:
                del node[key]
            case "copy":
                other, at = draw(st.sampled_from(list(_places(value))))
                node[key] = deepcopy(other[at])
            case "nest":
                node[key] = {"a": node[key]} if draw(st.booleans()) else [node[key]]
            case "add" if isinstance(node[key], dict):
                node[key][draw(st.sampled_from(("", "a", "x" * 300, "\x1b[31m", "base_model")))] = draw(_value)
            case "add" if isinstance(node[key], list):
                node[key].append(draw(_value))
            case _:
                node[key] = draw(_value)
    return value[""]


_value = st.sampled_from(VALUES).map(deepcopy)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container of a value, with each of its keys."""
    for key, child in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(child, dict | list):
            yield from _places(child)


@st.composite
def texts(draw: st.DrawFn, good: str) -> bytes:
    """Draw a text with up to three inserted, replaced, removed or repeated parts, and perhaps a wrong byte."""
    text = good
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.sampled_from((0, 0, 1, 2, 5, 20, 100))))
        part = draw(
            st.one_of(st.sampled_from(SNIPPETS), st.sampled_from(("", text[start:end] * 2, "\n" + text[:start])))
        )
        text = text[:start] + part + text[end:]
    return draw(changed_bytes(text.encode())) if draw(st.integers(0, 4)) == 4 else text.encode()


@st.composite
def changed_bytes(draw: st.DrawFn, good: bytes) -> bytes:
    """Draw bytes with one part that is replaced, or that are cut off."""
    at = draw(st.integers(0, len(good)))
    new = draw(
        st.sampled_from((b"", b"\xff", b"\0", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"[" * 3000, b"9" * 5000, b"{}"))
    )
    return good[:at] if draw(st.integers(0, 3)) == 3 else good[:at] + new + good[at + draw(st.integers(0, 9)) :]


def json_files(good: Any) -> st.SearchStrategy[bytes]:
    """Return a strategy of changed JSON files: half of them are JSON."""
    written = structures(good).map(lambda value: json.dumps(value).encode())
    return st.one_of(written, written, texts(json.dumps(good)))
