"""Our check of safetensors headers against the library's own, for hundreds of changed headers."""

from __future__ import annotations

import json
from copy import deepcopy
from itertools import chain

import pytest
from safetensors import SafetensorError, safe_open

from evolve.engines.checkpoints import ITEM_BYTES, read_tensors
from evolve.errors import ModelError

GOOD = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "empty": {"dtype": "F16", "shape": [0, 7], "data_offsets": [32, 32]},
    "scalar": {"dtype": "I64", "shape": [], "data_offsets": [32, 40]},
    "last": {"dtype": "U8", "shape": [1, 1, 8], "data_offsets": [40, 48]},
}
BODY = 48

HOSTILE = (
    *(None, True, False, -1, 0, 1, 2, 23, 24, 25, 40, 48, 2**31, 2**32, 2**62, 2**63, 2**64 - 1, 2**64, 10**30),
    *(
        1.0,
        24.0,
        0.5,
        -0.0,
        "",
        "24",
        "F32",
        "F16",
        "f32",
        "BOOL",
        "C64",
        [],
        [0],
        [24],
        [2, 3],
        [3, 2],
        [6],
        [1, 2, 3],
    ),
    *([0, 24, 24], [24, 0], [0, 24], [24, 32], [0, 8], [8, 32], [-1, 23], [True, 24], [0.0, 24.0], ["0", "24"], {}),
    *([2**63, 2**63, 0], [0, 2**63, 2**63], [2**61, 8], [2**64 - 1], [None], [[2, 3]], {"format": "pt"}, {"a": 1}),
    {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
)
STRICTER = {
    "a type as a mapping": ('"F32"', '{"F32": null}'),
    "a tensor as an array": ('{"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}', '["F32", [2, 3], [0, 24]]'),
    "a tensor twice": ('"a": {', '"a": {"dtype": "U8", "shape": [], "data_offsets": [0, 1]}, "a": {'),
    "a type smaller than a byte": ('"F32", "shape": [2, 3]', '"F4", "shape": [6, 8]'),
    "whitespace before it": ('{"__metadata__"', ' {"__metadata__"'),
}


def places(node, path=()):
    yield path
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def replaced(path, value):
    if not path:
        return value
    changed = deepcopy(GOOD)
    node = changed
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = deepcopy(value)
    return changed


def without(path):
    changed = deepcopy(GOOD)
    node = changed
    for key in path[:-1]:
        node = node[key]
    del node[path[-1]]
    return changed


def text_changes():
    text = json.dumps(GOOD)
    yield from (text[:at] + insert + text[at:] for at in range(0, len(text), 7) for insert in ('"', "{", "]", "1", "é"))
    yield from (text[:at] + text[at + 1 :] for at in range(0, len(text), 5))
    yield from (text + end for end in (" ", "   ", "\n", "\t", "\r\n", "\0", "\f", "x", "{}", "\ufeff", "//", "\u00a0"))
    yield from (
        text.replace("24", number) for number in ("24.0", "2.4e1", "+24", "024", "-0", "NaN", "Infinity", "1e400")
    )
    yield from (text.replace("[0, 24]", place) for place in ("[-0, 24]", "[0, 24", "[0,24,]", "[ 0 , 24 ]", "0, 24"))
    yield from (
        text.replace('"a"', name) for name in ('"\\ud800"', '"\\u0000"', '"\\x41"', '"\x01"', '"b"', "a", "'a'")
    )
    yield from (text.replace('"a"', f'"{odd}"') for odd in ("", "__metadata__", "é", "a/b", "x" * 3000))
    yield from ("", "{}", "[]", "null", "1", "{", "[" * 2000, '{"a":' * 2000, "{}" + " " * 30, '{"__metadata__": null}')


def headers():
    """Return different headers as bytes."""
    dtypes = [
        replaced(("a",), {"dtype": d, "shape": [24 // n], "data_offsets": [0, 24]}) for d, n in ITEM_BYTES.items()
    ]
    changes = [replaced(path, value) for path in places(GOOD) for value in HOSTILE] + dtypes
    removed = [without(path) for path in places(GOOD) if path]
    orders = [dict(reversed(GOOD.items()))]
    texts = chain(map(json.dumps, chain(changes, removed, orders)), text_changes())
    found = [text.encode() for text in dict.fromkeys(texts)]
    good = json.dumps(GOOD).encode()
    return [*found, good.replace(b"pt", b"\xff"), good.replace(b"pt", b"\xed\xa0\x80"), b"\xef\xbb\xbf" + good]


def file_of(header, body=BODY, length=None):
    return (len(header) if length is None else length).to_bytes(8, "little") + header + b"\0" * body


def accepted_by_the_library(path):
    try:
        with safe_open(path, framework="np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError:
        return None


def accepted_by_us(path):
    try:
        return {name: info.shape for name, info in read_tensors(path).items()}
    except ModelError:
        return None


def test_changed_headers_are_accepted_where_the_library_accepts_them(tmp_path):
    path = tmp_path / "a.safetensors"
    differing, outcomes = {}, []
    for header in headers():
        path.write_bytes(file_of(header))
        ours, theirs = accepted_by_us(path), accepted_by_the_library(path)
        outcomes.append(ours is not None)
        if ours != theirs:
            differing[header[:400]] = (ours, theirs)

    assert differing == {}
    assert len(outcomes) > 1500
    assert 30 < sum(outcomes) < len(outcomes) - 1000


@pytest.mark.parametrize("body", [0, 1, 47, 49, 56, 480])
def test_a_file_of_another_length_is_refused_by_both(tmp_path, body):
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_of(json.dumps(GOOD).encode(), body))

    assert accepted_by_us(path) is accepted_by_the_library(path) is None


@pytest.mark.parametrize("length", [0, 1, 10, 2**31, 2**63, 2**64 - 1, 100_000_001])
def test_a_header_of_another_length_is_refused_by_both(tmp_path, length):
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_of(json.dumps(GOOD).encode(), length=length))

    assert accepted_by_us(path) is accepted_by_the_library(path) is None


@pytest.mark.parametrize(("old", "new"), STRICTER.values(), ids=STRICTER)
def test_the_headers_that_only_the_library_accepts(tmp_path, old, new):
    text = json.dumps(GOOD)
    assert old in text
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_of(text.replace(old, new).encode()))

    assert accepted_by_the_library(path) is not None
    assert accepted_by_us(path) is None
