"""Changed valid files give a valid result or one message, whatever the change: never a traceback, never a hang."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from evolve.config import TaskConfig, dump_config, load_config
from evolve.engines.adapters import check_adapter
from evolve.engines.checkpoints import (
    check_tokenizer,
    differences,
    differing_settings,
    fingerprint,
    read_layout,
    same_vocabulary,
    token_rows,
)
from evolve.engines.merging import identity, load_template, parse_template, render
from evolve.engines.merging.checking import check_recipe
from evolve.engines.pickled import pickled_files
from evolve.errors import ConfigError, EvolveError, ModelError, RecipeError
from evolve.run.hashes import HashCache
from evolve.run.store import ScoreRecord
from tests.engines.checkpoints import _files
from tests.fuzz._mutations import FEW, MANY, explore, json_files, structures, texts

CONFIG = yaml.safe_load(
    """
name: a
base_model: ./base
foundation_models: {A: ./a, B: {model: ./b, adapter: org/adapter@main}, C: org/c}
strategy: {name: kinship, metric: pcc, top_k: 3, pairs_per_generation: null, stop_at_kinship: 0.9, max_generations: 4}
merge: {recipe: [slerp, ./mine.yaml], dtype: bfloat16, tokenizer: auto}
evaluation:
  tasks: [{task: winogrande, metric: 'acc,none', num_fewshot: 5, weight: 2.0, limit: 7}, {task: mine}]
  datasets: {mine: ./data}
  task_dirs: [./tasks]
  model_args: {dtype: bfloat16, revision: '2024'}
  batch_size: auto
  limit: 10
attempts: 2
seed: 3
"""
)
RECIPES = [load_template(name).text for name in ("slerp-gradient", "ties")]
CONDITIONAL = (
    "merge_method: linear\nmodels:\n{% for m, w in [(parent_1, 0.25), (parent_2, 0.75)] %}  - model: {{ m }}\n"
    "    parameters: {weight: {{ w|round(1) }}}\n{% endfor %}{% if num_layers > 3 %}dtype: {{ dtype }}\n{% endif %}\n"
)
TOKENIZER = {
    "version": "1.0",
    "added_tokens": [
        {"id": 2, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        | {"special": True}
    ],
    "pre_tokenizer": {"type": "Whitespace"},
    "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"},
}
HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}
ADAPTER = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 4,
    "base_model_name_or_path": "x",
    "fan_in_fan_out": False,
}
SCORE = {
    "key": "k",
    "score": {"metric": "acc,none", "value": 0.5, "stderr": 0.1},
    "seconds": 3.5,
    "batch_size": 16,
    "reused": False,
}


pytestmark = pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])


def files(good: object) -> st.SearchStrategy[bytes]:
    """Return a strategy of changed YAML files."""
    written = structures(good).map(lambda value: yaml.safe_dump(value, sort_keys=False).encode())
    return st.one_of(written, texts(yaml.safe_dump(good, sort_keys=False)))


def require_plain(error: EvolveError, start: str | None = None) -> None:
    """Require a message for people: one line, or, for a configuration, one line for each key, with its beginning."""
    text = str(error)
    assert text
    assert len(text) < 20_000
    assert not [word for word in ("Traceback", "pydantic", "NoneType", "object has no") if word in text]
    assert "\n" not in text if start is None else all(line.startswith(start) for line in text.split("\n"))


def test_configurations(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "run.yaml"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            config = load_config(path)
        except ConfigError as error:
            require_plain(error, start=f"{path}: ")
        else:
            path.write_text(dump_config(config), encoding="utf-8")
            assert load_config(path) == config

    explore(files(CONFIG), check, examples)


def test_settings_of_the_command_line(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(CONFIG), encoding="utf-8")

    def check(data: bytes) -> None:
        try:
            load_config(path, [data.decode(errors="surrogateescape")])
        except ConfigError as error:
            require_plain(error, start="")

    explore(texts("evaluation.tasks.0.weight=3"), check, examples)


@pytest.fixture(scope="module")
def mergekit() -> None:
    """Import mergekit, which takes seconds."""
    check_recipe(
        "{merge_method: slerp, base_model: /a, models: [{model: /a}, {model: /b}], parameters: {t: 1}, dtype: a}"
    )


@pytest.mark.usefixtures("mergekit")
@pytest.mark.parametrize("text", [*RECIPES, CONDITIONAL], ids=["gradient", "ties", "conditional"])
def test_recipes(text: str, examples: int) -> None:
    def check(data: bytes) -> None:
        try:
            template = parse_template("mine", data.decode(errors="replace"))
            identity(template, ("one", "two"), "base", "float32", None)
            parents = (Path("/m/one"), Path("/m/two"))
            check_recipe(
                render(template, parents=parents, base=Path("/m/b"), num_layers=4, dtype="float32", tokenizer="union")
            )
        except RecipeError as error:
            require_plain(error)

    explore(texts(text), check, examples)


@pytest.mark.usefixtures("mergekit")
def test_contents_of_recipes(examples: int) -> None:
    good = yaml.safe_load(RECIPES[1].replace("{{ base_model }}", "/b").replace("{{ dtype }}", "float32")
        .replace("{{ parent_1 }}", "/m/one").replace("{{ parent_2 }}", "/m/two"))  # fmt: skip

    def check(value: object) -> None:
        try:
            check_recipe(yaml.safe_dump(value))
        except RecipeError as error:
            require_plain(error)

    explore(structures(good | {"tokenizer": {"source": "union", "pad_to_multiple_of": 8}}), check, examples)


def test_headers(tmp_path: Path, examples: int) -> None:
    folder = _files.write(tmp_path / "model")
    path = folder / "model.safetensors"

    def check(header: bytes) -> None:
        path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 32)
        try:
            names = {*read_layout(folder).tensors}
        except ModelError as error:
            require_plain(error)
        else:
            with safe_open(path, framework="np") as file:
                assert {*file.keys()} == names

    explore(json_files(HEADER), check, examples)


def test_bytes_of_weights(tmp_path: Path, examples: int) -> None:
    folder = _files.write(tmp_path / "model")
    path = folder / "model.safetensors"
    good = path.read_bytes()

    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            read_layout(folder)
            is_ours = True
        except ModelError:
            is_ours = False
        try:
            with safe_open(path, framework="np") as file:
                is_theirs = bool({*file.keys()})
        except SafetensorError:
            is_theirs = False
        assert is_theirs or not is_ours

    cuts = st.integers(0, len(good)).map(lambda end: good[:end])
    flips = st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255)).map(
        lambda flip: good[: flip[0]] + bytes([flip[1]]) + good[flip[0] + 1 :]
    )
    explore(st.one_of(cuts, flips, flips), check, examples)


def test_indices(tmp_path: Path, examples: int) -> None:
    folder = _files.shard(tmp_path / "model")
    path = folder / "model.safetensors.index.json"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            fingerprint(folder)
        except ModelError as error:
            require_plain(error)

    explore(json_files(json.loads(path.read_text())), check, examples)


def test_configurations_of_models(tmp_path: Path, examples: int) -> None:
    folder, other = _files.write(tmp_path / "model"), _files.write(tmp_path / "other")
    path = folder / "config.json"
    good = json.loads(path.read_text()) | {"text_config": {"vocab_size": 10}, "rope_scaling": {"type": "linear"}}

    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            layouts = {"a": read_layout(folder), "b": read_layout(other)}
            differences(layouts["a"], layouts["b"])
            differing_settings(layouts)
            same_vocabulary([folder, other])
        except ModelError as error:
            require_plain(error)

    explore(json_files(good), check, examples)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "added_tokens.json"])
def test_tokenizers(tmp_path: Path, examples: int, name: str) -> None:
    folder = _files.write(tmp_path / "model")
    goods = {
        "tokenizer.json": TOKENIZER,
        "tokenizer_config.json": {"added_tokens_decoder": {"2": {"content": "<s>"}, "3": {"content": "x"}}},
        "added_tokens.json": {"<s>": 2, "x": 3},
    }
    for file in ("tokenizer.json", name):
        (folder / file).write_text(json.dumps(goods[file]))

    def check(data: bytes) -> None:
        (folder / name).write_bytes(data)
        for read in (token_rows, check_tokenizer, lambda folder: same_vocabulary([folder, folder])):
            try:
                rows = read(folder)
            except ModelError as error:
                require_plain(error)
            else:
                assert not isinstance(rows, dict) or all(type(row) is int and row >= 0 for row in rows.values())

    explore(json_files(goods[name]), check, examples)


def test_adapters(tmp_path: Path, examples: int) -> None:
    layout = read_layout(_files.write(tmp_path / "model"))
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes((tmp_path / "model" / "model.safetensors").read_bytes())

    def check(data: bytes) -> None:
        (folder / "adapter_config.json").write_bytes(data)
        try:
            check_adapter(folder, layout)
        except ModelError as error:
            require_plain(error)

    explore(json_files(ADAPTER), check, examples)


def test_indices_of_pickled_weights(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "pytorch_model.bin.index.json"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        with pytest.raises(ModelError) as caught:
            pickled_files(tmp_path)
        require_plain(caught.value)

    explore(json_files({"weight_map": {"a": "pytorch_model-1.bin"}}), check, examples)


def test_scores(tmp_path: Path, examples: int) -> None:
    def check(data: bytes) -> None:
        (tmp_path / "score.json").write_bytes(data)
        record = ScoreRecord.read(tmp_path, "k", TaskConfig(task="winogrande"))
        assert record is None or record.key == "k"

    explore(json_files(SCORE), check, examples)


def test_caches_of_hashes(tmp_path: Path, examples: int) -> None:
    (tmp_path / "file").write_bytes(b"x")

    def check(data: bytes) -> None:
        (tmp_path / "hashes.json").write_bytes(data)
        assert len(HashCache(tmp_path / "hashes.json").hash_of(tmp_path / "file")) == 64

    explore(json_files({"a": "b"}), check, examples)
