"""Rows of hostile models, tokenizers, items and task files, and headers that the safetensors library refuses."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.faults.hostile_files import CHECK, DIGITS, UNREADABLE, aliases, named, refused, replaced, unreadable
from tests.faults.places import configure, edit_json, text, together, write
from tests.faults.table import Change, Place

BRACKETS = 200_000
# --------------------------------------------------------------------------------------------------------------- models


def tokenizer(change: Callable[[Any], Any]) -> Change:
    """Return a change that gives A a tokenizer unlike that of the others."""

    def edit(place: Place) -> None:
        for number, name in enumerate(("base", "A", "B")):
            content = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, str(number): 2}, "merges": []}}
            write(place.family / name / "tokenizer.json", json.dumps(content))
        configure(merge__tokenizer="auto")(place)
        edit_json("A/tokenizer.json", change)(place)

    return edit


def vocabulary(value: Any) -> Callable[[Any], Any]:
    return lambda content: content["model"].update(vocab=value)


def raw_tokenizer(content: str | bytes) -> Change:
    return together(tokenizer(lambda _: None), text("A/tokenizer.json", content))


FILE = "<family>/A"
TOKENIZERS: dict[str, Change] = {
    "without a model": tokenizer(lambda content: content.update(model=None)),
    "whose model is a list": tokenizer(lambda content: content.update(model=[])),
    "whose vocabulary is null": tokenizer(vocabulary(None)),
    "whose vocabulary is a number": tokenizer(vocabulary(7)),
    "whose vocabulary is a list of numbers": tokenizer(vocabulary([1, 2])),
    "whose vocabulary is a list of lists": tokenizer(vocabulary([[["a"], 0.5]])),
    "whose vocabulary has lists as numbers": tokenizer(vocabulary({"a": [0]})),
    "whose vocabulary has no numbers": tokenizer(vocabulary({"a": "x"})),
    "whose vocabulary has infinite numbers": raw_tokenizer('{"model": {"vocab": {"a": 1e999}}}'),
    "whose vocabulary has numbers of 5,000 digits": raw_tokenizer(f'{{"model": {{"vocab": {{"a": {"9" * 5000}}}}}}}'),
    "whose added tokens are numbers": tokenizer(lambda content: content.update(added_tokens=[1])),
    "whose added tokens are a number": tokenizer(lambda content: content.update(added_tokens=5)),
    "whose added tokens have no content": tokenizer(lambda content: content.update(added_tokens=[{}])),
    "whose added tokens have lists as content": tokenizer(lambda c: c.update(added_tokens=[{"content": []}])),
    "that is a list": tokenizer(lambda _: []),
    "that is a number": tokenizer(lambda _: 5),
    "of brackets": raw_tokenizer("[" * BRACKETS),
    "of mappings": raw_tokenizer('{"a":' * BRACKETS),
    "that is not UTF-8": raw_tokenizer(b'{"model": {"vocab": {"\xff": 0}}}'),
    "that is cut off": raw_tokenizer('{"model": {"vocab": {"a"'),
}
SETTINGS: dict[str, str] = {
    "a list": "[]",
    "of brackets": "[" * BRACKETS,
    "with a list of added tokens": '{"added_tokens_decoder": [1]}',
    "with an added token without a number": '{"added_tokens_decoder": {"x": {"content": "y"}}}',
    "with an added token that is null": '{"added_tokens_decoder": {"1": null}}',
}
MODELS = (
    *(refused(f"a tokenizer {name}", change, FILE, "tokenizer") for name, change in TOKENIZERS.items()),
    *(refused(f"settings of a tokenizer: {name}", together(tokenizer(lambda _: None),
              text("A/tokenizer_config.json", content)), FILE, "tokenizer") for name, content in SETTINGS.items()),
    *unreadable("a tokenizer", "A/tokenizer.json", FILE, "tokenizer", prepared=tokenizer(lambda _: None),
                without=("a pipe", "an endless device", "a folder", "a link to itself")),
    *(named(f"a tokenizer that is {how}", together(tokenizer(lambda _: None), replaced("A/tokenizer.json", make)),
            CHECK, seconds=20.0) for how, make in UNREADABLE.items() if how in {"a pipe", "an endless device"}),
    *unreadable("config.json", "A/config.json", "foundation_models.A", "config.json", without=("a folder",)),
    *unreadable("an index", "A/model.safetensors.index.json", "foundation_models.A", "model.safetensors.index.json",
                prepared=replaced("A/model.safetensors", lambda path: None), without=("a folder", "a link to itself")),
    *unreadable("a file of weights", "A/model.safetensors", "foundation_models.A", without=("not UTF-8",)),
    refused("config.json of brackets", text("A/config.json", "[" * BRACKETS), "foundation_models.A", "config.json"),
    refused("config.json with brackets inside", text("A/config.json", '{"model_type": "mistral", "x": '
            + "[" * BRACKETS), "foundation_models.A", "config.json"),
    refused("config.json with 5,000 digits", text("A/config.json", '{"model_type": "mistral", "vocab_size": '
            + "9" * 5000 + "}"), "foundation_models.A", "config.json"),
    refused("config.json that is null", text("A/config.json", "null"), "foundation_models.A", "config.json"),
    refused("config.json whose type is a list", edit_json("A/config.json", lambda c: c.update(model_type=["mistral"])),
            "foundation_models.A"),
    refused("an index of brackets", together(text("A/model.safetensors.index.json", "[" * BRACKETS),
            replaced("A/model.safetensors", lambda path: None)), "foundation_models.A", "index.json"),
    refused("an index of paths", together(text("A/model.safetensors.index.json", json.dumps({"weight_map": {
            "model.layers.0.mlp.weight": "../B/model.safetensors"}})), replaced("A/model.safetensors", lambda p: None)),
            "foundation_models.A", "index.json"),
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------ safetensors

TENSOR = "model.layers.0.mlp.weight"
BYTES = 4 * 24


def header(raw: bytes | str, *, data: int = BYTES, length: int | None = None) -> Change:
    """Return a change that gives A a file of weights with a header."""
    encoded = raw if isinstance(raw, bytes) else raw.encode()
    values = np.linspace(-1, 1, max(data // 4, 1), dtype=np.float32).tobytes().ljust(data, b"\0")[:data]
    start = struct.pack("<Q", len(encoded) if length is None else length)
    return lambda place: write(place.family / "A" / "model.safetensors", start + encoded + values)


def entry(shape: list[int], *offsets: int, dtype: str = "F32") -> str:
    return json.dumps({"dtype": dtype, "shape": shape, "data_offsets": offsets})


WHOLE = entry([4, 6], 0, BYTES)
HEADERS: dict[str, Change] = {
    "a tensor twice": header(f'{{"{TENSOR}": {WHOLE}, "{TENSOR}": {WHOLE}}}'),
    "a tensor twice under different places": header(
        f'{{"{TENSOR}": {entry([4, 6], BYTES, 2 * BYTES)}, "{TENSOR}": {WHOLE}}}'
    ),
    "overlapping tensors": header(f'{{"{TENSOR}": {WHOLE}, "other": {entry([24], 0, BYTES)}}}'),
    "partly overlapping tensors": header(
        f'{{"{TENSOR}": {WHOLE}, "other": {entry([24], 48, 48 + BYTES)}}}', data=48 + BYTES
    ),
    "empty tensors inside another": header(f'{{"{TENSOR}": {WHOLE}, "other": {entry([0], 48, 48)}}}'),
    "a gap between tensors": header(f'{{"{TENSOR}": {entry([4, 6], 8, 8 + BYTES)}}}', data=8 + BYTES),
    "a header that does not begin with a brace": header(f'  {{"{TENSOR}": {WHOLE}}}'),
    "metadata that is no text": header(f'{{"__metadata__": {{"format": 1}}, "{TENSOR}": {WHOLE}}}'),
    "metadata twice": header(f'{{"__metadata__": {{}}, "__metadata__": {{}}, "{TENSOR}": {WHOLE}}}'),
    "a key too many": header(f'{{"{TENSOR}": {WHOLE[:-1]}, "more": 1, "shape": [4, 6]}}}}'),
    "a fraction as a shape": header(f'{{"{TENSOR}": {WHOLE.replace("[4, 6]", "[4.0, 6]")}}}'),
    "a text as a shape": header(f'{{"{TENSOR}": {WHOLE.replace("[4, 6]", chr(34) + "46" + chr(34))}}}'),
    "a negative shape": header(f'{{"{TENSOR}": {entry([-4, -6], 0, BYTES)}}}'),
    "a shape that overflows": header(f'{{"{TENSOR}": {entry([2**40, 2**40], 0, BYTES)}}}'),
    "a shape of 400 digits": header(f'{{"{TENSOR}": {WHOLE.replace("[4, 6]", f"[{DIGITS}]")}}}'),
    "a truth value as a place": header(f'{{"{TENSOR}": {WHOLE.replace("[0, 96]", "[false, 96]")}}}'),
    "places of 400 digits": header(f'{{"{TENSOR}": {WHOLE.replace("[0, 96]", f"[0, {DIGITS}]")}}}'),
    "a number of 5,000 digits": header(f'{{"{TENSOR}": {WHOLE.replace("[0, 96]", f"[0, {DIGITS * 13}]")}}}'),
    "a header of brackets": header("[" * BRACKETS),
    "a header with brackets inside": header('{"x": ' + "[" * BRACKETS),
    "a header that is not UTF-8": header(b'{"\xff": ' + WHOLE.encode() + b"}"),
    "a header that is not a number": header(f'{{"{TENSOR}": {WHOLE}, "x": NaN}}'),
    "a header of a list": header("[]"),
    "a header of null": header("null"),
    "bytes behind the tensors": header(f'{{"{TENSOR}": {WHOLE}}}', data=BYTES + 4),
}

# ---------------------------------------------------------------------------------------------------------------- items


def own_items(*, rows: str | bytes, name: str = "winogrande/validation.jsonl") -> Change:
    return text(name, rows)


TASK = "evaluation.tasks.0"
REAL: dict[str, Any] = {"family": "real", "engines": "real", "seconds": 60.0}


def task_file(content: str) -> Change:
    return together(
        text("tasks/mine.yaml", content),
        configure(evaluation__tasks=[{"task": "mine"}], evaluation__datasets={}, evaluation__task_dirs=["./tasks"]),
    )


ITEMS = (
    refused("items of brackets", own_items(rows="[" * BRACKETS + "\n"), TASK, "validation.jsonl", **REAL),
    refused("items that are not UTF-8", own_items(rows=b'{"sentence": "\xff"}\n'), TASK, "validation.jsonl", **REAL),
    refused("items of 5,000 digits", own_items(rows='{"sentence": ' + "9" * 5000 + "}\n"), TASK, "validation.jsonl",
            **REAL),
    refused("items that are a pipe", replaced("winogrande/validation.jsonl", os.mkfifo), "validation.jsonl", **REAL),
    refused("items that are a device", replaced("winogrande/validation.jsonl", lambda p: p.symlink_to("/dev/zero")),
            "validation.jsonl", **REAL),
    refused("a task file of brackets", task_file("task: mine\nx: " + "[" * 3000), TASK, "mine", **REAL, slow=True),
    refused("a task file with aliases that explode", task_file("task: mine\n" + aliases()), "mine", **REAL),
    refused("a task file with an alias of itself", task_file("task: mine\nx: &x [*x]\n"), "mine", **REAL),
    refused("a task file that includes itself", task_file("task: mine\ninclude: mine.yaml\n"), "mine", **REAL,
            slow=True),
    refused("a task file that is a pipe", together(task_file("task: mine\n"), replaced("tasks/mine.yaml", os.mkfifo)),
            "mine", **REAL),
    refused("a task file that is a device", together(task_file("task: mine\n"), replaced("tasks/mine.yaml",
            lambda path: path.symlink_to("/dev/zero"))), "mine", **REAL),
    refused("a home folder of no one as data of the tasks", configure(evaluation__datasets={"winogrande":
            "~nosuchuser/data"}), "evaluation.datasets.winogrande", "nosuchuser", **REAL),
)  # fmt: skip


ROWS = (*MODELS, *ITEMS)
