"""Complete runs from Hub ids, LoRA adapters, pickled weights and foundations with different vocabularies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from evolve.nursery import Family
from tests.conftest import Evolve, write_config
from tests.support import families
from tests.support.hub import HubCache
from tests.support.served import ServedEvolve

FIRST, SECOND = "1" * 40, "2" * 40
SECRET = "hf_thisIsNoTokenButMustNotBeWrittenAnywhere"


def write(path: Path, family: Family, models: dict[str, Any], **sections: Any) -> Path:
    """Write a configuration with one short task."""
    evaluation = {
        "tasks": [{"task": "winogrande", "metric": "acc,none", "num_fewshot": 1}],
        "datasets": {"winogrande": str(family.datasets["winogrande"])},
        "model_args": {"dtype": "float32"},
        "limit": 6,
    }
    return write_config(path, family, foundation_models=models, evaluation=evaluation, **sections)


def started(run: Path) -> dict[str, Any]:
    line = (run / "journal.jsonl").read_text().splitlines()[0]
    event: dict[str, Any] = json.loads(line)["event"]
    return event


def tree_of(run: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((run / "family_tree.json").read_text())
    return tree


# -------------------------------------------------------------------------------------------- the Hub and adapters


class HubRun:
    """A run with base and foundations from a Hub cache; two foundations are adapters."""

    def __init__(self, root: Path, family: Family) -> None:
        self.root, self.family = root, family
        self.hub = HubCache(root / "hub")
        self.command = ServedEvolve(HF_HUB_CACHE=str(self.hub.root), HF_TOKEN=SECRET)
        self.adapter = families.adapt(root / "adapter", family.base, seed=1)
        self.hub.add("nursery/base", family.base, FIRST, "main", "v1")
        self.hub.add("nursery/facts", family.specialists["facts"], FIRST, "main")
        self.hub.add("nursery/lora", families.adapt(root / "lora", family.base, seed=2), FIRST, "main")
        self.config = write(
            root / "config.yaml",
            family,
            {
                "facts": "nursery/facts",
                "one": {"model": "nursery/base@v1", "adapter": "./adapter"},
                "other": {"model": "nursery/base", "adapter": "nursery/lora"},
            },
            base_model="nursery/base@v1",
            strategy={"name": "kinship", "top_k": 3, "max_generations": 1, "stop_at_kinship": None},
        )
        self.run = root / "runs" / "run"

    @property
    def cached(self) -> list[Path]:
        return sorted(path for path in (self.root / "runs" / ".adapters").glob("[!.]*"))

    def start(self, *overrides: str) -> subprocess.CompletedProcess[str]:
        more = [part for override in overrides for part in ("--set", override)]
        return self.command("run", self.config, "--run-dir", self.run, *more)


@pytest.fixture(scope="module")
def hub_run(tmp_path_factory: pytest.TempPathFactory, family: Family) -> Iterator[HubRun]:
    found = HubRun(tmp_path_factory.mktemp("hub"), family)
    yield found
    found.command.close()


@pytest.fixture(scope="module")
def finished(hub_run: HubRun) -> HubRun:
    done = hub_run.start()
    assert done.returncode == 0, done.stderr
    return hub_run


def test_check_merges_no_adapter(hub_run: HubRun) -> None:
    done = hub_run.command("check", hub_run.config)
    assert done.returncode == 0, done.stderr
    assert f"one: {hub_run.hub.root}" in done.stdout
    assert f"with the adapter {hub_run.adapter} at commit {FIRST}+" in done.stdout
    assert done.stdout.splitlines()[-1] == f"Ready: evolve run {hub_run.config}"


def test_the_journal_has_the_sources_of_the_foundations(finished: HubRun) -> None:
    event = started(finished.run)
    entries = {entry["name"]: entry for entry in event["foundations"]}
    assert event["base"]["revision"] == entries["facts"]["revision"] == FIRST
    assert entries["facts"]["path"] == str(finished.hub.root / "models--nursery--facts" / "snapshots" / FIRST)
    assert entries["one"]["source"] == f"nursery/base@v1+{finished.adapter}"
    assert entries["one"]["revision"] == f"{FIRST}+"
    assert entries["other"]["revision"] == f"{FIRST}+{FIRST}"
    assert {entries["one"]["path"], entries["other"]["path"]} == {
        f"../.adapters/{path.name}" for path in finished.cached
    }
    assert entries["one"]["prepared"]["kind"] == "adapter"
    assert entries["one"]["prepared"]["parts"] == {"model": FIRST, "adapter": None}
    assert entries["other"]["prepared"]["parts"] == {"model": FIRST, "adapter": FIRST}
    assert entries["facts"]["prepared"] is None
    assert len({entry["identity"] for entry in entries.values()}) == 3
    nodes = {node["id"]: node for node in tree_of(finished.run)["nodes"]}
    assert len(nodes) == 6
    assert all(node["status"] == "evaluated" for node in nodes.values())


def test_no_written_file_has_the_token(finished: HubRun) -> None:
    written = [path for path in (finished.root / "runs").rglob("*") if path.is_file()]
    assert len(written) > 20
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]


def test_another_run_reuses_the_merged_adapters(finished: HubRun) -> None:
    before = {path: path.stat().st_mtime_ns for folder in finished.cached for path in folder.iterdir()}
    done = finished.command("run", finished.config, "--run-dir", finished.run.with_name("again"))
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for folder in finished.cached for path in folder.iterdir()} == before


def test_a_damaged_merged_adapter_is_merged_again(finished: HubRun) -> None:
    folder = finished.cached[0]
    weights = folder / "model.safetensors"
    original = weights.read_bytes()
    weights.write_bytes(original[:-8] + bytes(8))
    done = finished.command("run", finished.config, "--run-dir", finished.run.with_name("third"))
    assert done.returncode == 0, done.stderr
    assert weights.read_bytes() == original


def test_a_run_resumes_with_the_commits_with_which_it_began(finished: HubRun) -> None:
    """The branches have moved since, and the merged adapters are missing."""
    for name in ("base", "facts", "lora"):
        finished.hub.add(f"nursery/{name}", finished.family.specialists["arithmetic"], SECOND, "main", "v1")
    entries = started(finished.run)["foundations"]
    before = tree_of(finished.run)
    _cut_short(finished)
    done = finished.start()
    assert done.returncode == 0, done.stderr
    assert started(finished.run)["foundations"] == entries
    assert {f"../.adapters/{path.name}" for path in finished.cached} == {e["path"] for e in entries if e["prepared"]}
    for was, now in zip(before["nodes"], tree_of(finished.run)["nodes"], strict=True):
        assert [now[key] for key in ("id", "identity", "average")] == [
            was[key] for key in ("id", "identity", "average")
        ]


def _cut_short(finished: HubRun) -> None:
    """Leave the run as if it was killed after its first merge, with an empty cache."""
    _cut_journal(finished)
    shutil.rmtree(finished.run / "models")
    shutil.rmtree(finished.root / "runs" / ".adapters")


def _cut_journal(finished: HubRun) -> None:
    lines = (finished.run / "journal.jsonl").read_bytes().splitlines(keepends=True)
    merged = next(number for number, line in enumerate(lines) if json.loads(line)["event"]["type"] == "model_merged")
    (finished.run / "journal.jsonl").write_bytes(b"".join(lines[: merged + 1]))


def test_a_moved_adapter_is_found(finished: HubRun) -> None:
    """The Hub model that it belongs to has moved on since, but the run keeps its commit."""
    _cut_journal(finished)
    moved, text = finished.root / "moved-adapter", finished.config.read_text()
    finished.adapter.rename(moved)
    finished.config.write_text(text.replace("./adapter", "./moved-adapter"))
    done = finished.start()
    assert done.returncode == 0, done.stderr
    moved.rename(finished.adapter)
    finished.config.write_text(text)


def test_another_adapter_is_refused_although_the_merged_one_is_cached(finished: HubRun) -> None:
    _cut_journal(finished)
    other = families.adapt(finished.root / "other-adapter", finished.family.base, seed=7)
    text = finished.config.read_text()
    finished.config.write_text(text.replace("./adapter", "./other-adapter"))
    done = finished.start()
    finished.config.write_text(text)
    assert done.returncode == 2
    assert "foundation_models.one = " in done.stderr
    assert str(other) in done.stderr
    assert "is not the model that the run began with" in done.stderr


def test_a_changed_adapter_is_refused(finished: HubRun) -> None:
    config = finished.adapter / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 13}))
    _cut_short(finished)
    journal = (finished.run / "journal.jsonl").read_bytes()
    done = finished.start()
    assert done.returncode == 2
    assert "the merged adapter of one is missing, and" in done.stderr
    assert "have changed since the run began; restore them, or start a new run" in done.stderr
    assert (finished.run / "journal.jsonl").read_bytes() == journal


def test_an_adapter_of_another_model_is_refused_before_the_run(
    hub_run: HubRun, family: Family, tmp_path: Path, served_evolve: Evolve
) -> None:
    other = families.adapt(tmp_path / "lora", families.save(tmp_path / "wide", hidden_size=64))
    models = {"a": str(family.specialists["facts"]), "b": {"model": str(family.base), "adapter": str(other)}}
    config = write(tmp_path / "config.yaml", family, models)
    for command in ("check", "run"):
        done = served_evolve(command, config)
        assert done.returncode == 2
        assert f"foundation_models.b = {other} does not fit {family.base}: " in done.stderr


# ---------------------------------------------------------------------------------------------------- pickled weights


class PickledRun:
    """A run whose base and two foundations have pickled weights; one foundation is sharded and from the Hub."""

    def __init__(self, root: Path, family: Family) -> None:
        from transformers import AutoModelForCausalLM

        self.root = root
        sharded = shutil.copytree(family.specialists["facts"], root / "sharded")
        (sharded / "model.safetensors").unlink()
        AutoModelForCausalLM.from_pretrained(family.specialists["facts"]).save_pretrained(
            sharded, max_shard_size="90KB"
        )
        self.hub = HubCache(root / "hub")
        self.command = ServedEvolve(HF_HUB_CACHE=str(self.hub.root))
        self.hub.add("nursery/facts", families.pickled(root / "facts", sharded), FIRST, "main")
        self.one = families.pickled(root / "one", family.specialists["coreference"])
        self.originals = {"base_model": family.base, "one": family.specialists["coreference"], "facts": sharded}
        self.config = write(
            root / "config.yaml",
            family,
            {"plain": str(family.specialists["arithmetic"]), "one": "./one", "facts": "nursery/facts"},
            base_model=str(families.pickled(root / "base", family.base)),
            strategy={"name": "kinship", "top_k": 3, "max_generations": 1, "stop_at_kinship": None},
            allow_pickled_weights=True,
        )
        self.run = root / "runs" / "run"

    @property
    def cached(self) -> set[str]:
        return {f"../.converted/{path.name}" for path in (self.root / "runs" / ".converted").glob("[!.]*")}

    def cut_short(self) -> None:
        lines = (self.run / "journal.jsonl").read_bytes().splitlines(keepends=True)
        merged = next(number for number, line in enumerate(lines) if b'"model_merged"' in line)
        (self.run / "journal.jsonl").write_bytes(b"".join(lines[: merged + 1]))
        shutil.rmtree(self.run / "models")
        shutil.rmtree(self.root / "runs" / ".converted")


@pytest.fixture(scope="module")
def pickled(tmp_path_factory: pytest.TempPathFactory, family: Family) -> Iterator[PickledRun]:
    found = PickledRun(tmp_path_factory.mktemp("pickled"), family)
    yield found
    found.command.close()


@pytest.fixture(scope="module")
def converted(pickled: PickledRun) -> PickledRun:
    done = pickled.command("run", pickled.config, "--run-dir", pickled.run)
    assert done.returncode == 0, done.stderr
    return pickled


def test_check_converts_no_weights(pickled: PickledRun) -> None:
    done = pickled.command("check", pickled.config)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pickled weights that the run converts") == 3
    assert "not checked: the pickled weights of one, which only the run reads" in done.stdout
    assert "recipe slerp-gradient: parsed by mergekit" in done.stdout
    assert done.stdout.splitlines()[-1] == f"Ready: evolve run {pickled.config}"
    assert not pickled.cached


def test_pickled_weights_are_refused_unless_allowed(pickled: PickledRun) -> None:
    done = pickled.command("run", pickled.config, "--run-dir", pickled.run, "--set", "allow_pickled_weights=false")
    assert done.returncode == 2
    assert "base_model: " in done.stderr or "foundation_models.facts" in done.stderr
    assert "set allow_pickled_weights: true" in done.stderr
    assert not pickled.run.exists()


def test_converted_weights_equal_the_originals(converted: PickledRun) -> None:
    import torch

    event = started(converted.run)
    entries = {entry["name"]: entry for entry in [event["base"], *event["foundations"]]}
    assert entries["one"]["source"] == str(converted.one)
    assert (entries["facts"]["source"], entries["facts"]["revision"]) == ("nursery/facts", FIRST)
    assert {entries[name]["path"] for name in converted.originals} == converted.cached
    for name, original in converted.originals.items():
        before, after = families.weights(original), families.weights(converted.run / entries[name]["path"])
        assert before.keys() == after.keys()
        assert all(torch.equal(weight, after[key]) for key, weight in before.items())
    nodes = tree_of(converted.run)["nodes"]
    assert len(nodes) == 6
    assert all(node["status"] == "evaluated" for node in nodes)


def test_a_run_converts_pickled_weights_again_if_the_converted_ones_are_missing(converted: PickledRun) -> None:
    before, entries, cached = tree_of(converted.run), started(converted.run), converted.cached
    converted.cut_short()
    done = converted.command("resume", converted.run)
    assert done.returncode == 0, done.stderr
    assert started(converted.run) == entries
    assert converted.cached == cached
    for was, now in zip(before["nodes"], tree_of(converted.run)["nodes"], strict=True):
        assert [now[key] for key in ("id", "identity", "average")] == [
            was[key] for key in ("id", "identity", "average")
        ]


def test_changed_pickled_weights_are_refused(converted: PickledRun) -> None:
    converted.cut_short()
    config = converted.one / "config.json"
    config.write_text(config.read_text() + "\n")
    done = converted.command("resume", converted.run)
    assert done.returncode == 2
    missing = "the converted copy of one is missing, and"
    assert f"{missing} the files of {converted.one} have changed" in done.stderr
    (converted.one / "pytorch_model.bin").unlink()
    done = converted.command("resume", converted.run)
    assert done.returncode == 2
    assert f"{missing} {converted.one} has no weights" in done.stderr


# ------------------------------------------------------------------------------------------------------ vocabularies


def with_tokens(folder: Path, model: Path, tokens: list[str]) -> Path:
    """Write a copy of a model with more tokens, and a row for each."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words = AutoTokenizer.from_pretrained(model)
    words.add_tokens(tokens, special_tokens=True)
    loaded = AutoModelForCausalLM.from_pretrained(model)
    rows = loaded.config.vocab_size + len(tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(tokens))
        loaded.resize_token_embeddings(rows, mean_resizing=False)
    loaded.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


LOAD = """
import sys, warnings
warnings.simplefilter("error")
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
for folder in sys.argv[1:]:
    words = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    inputs = words("Ann sold the cup<|end|>", return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    print(folder.rsplit("/", 1)[1], len(words), model.config.vocab_size, inputs.input_ids[0, -1].item())
"""


def test_foundations_with_three_vocabularies(tmp_path: Path, family: Family, served_evolve: Evolve) -> None:
    """V, V + 1 and V + 2 rows, like Mistral-Instruct, MetaMath and OpenChat; the second row of the last is padding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        facts = with_tokens(tmp_path / "facts", family.specialists["facts"], ["[PAD]"])
        chat = with_tokens(tmp_path / "chat", family.specialists["coreference"], ["<|end|>", "<|pad_0|>"])
    models = {"plain": str(family.specialists["arithmetic"]), "math": str(facts), "chat": str(chat)}
    # with 5 places among the best models, children of generation 1 always enter, and the run continues
    several = {"top_k": 5, "pairs_per_generation": 2}
    strategy = {"name": "kinship", "max_generations": 5, "stop_at_kinship": None} | several
    config = write(tmp_path / "config.yaml", family, models, strategy=strategy)
    run = tmp_path / "run"
    done = served_evolve("run", config, "--run-dir", run)
    assert done.returncode == 0, done.stderr

    tree = tree_of(run)
    nodes = {node["id"]: node for node in tree["nodes"]}
    assert all(node["status"] == "evaluated" for node in nodes.values())
    assert max(node["generation"] for node in nodes.values()) >= 2
    _check_left_out(run, tree)
    _check_children(run, [name for name, node in nodes.items() if node["parents"]], nodes)

    child = next(name for name, node in nodes.items() if set(node["parents"]) == {"math", "chat"})
    assert "rows of lm_head.weight" in served_evolve("show", run, child).stdout
    shown = json.loads(served_evolve("kinship", "--base", family.base, facts, chat, "--json").stdout)["pairs"][0]
    assert {row["tensor"]: row["rows"] for row in shown["left_out"]} == dict.fromkeys(EMBEDDINGS, 2)


EMBEDDINGS = ("lm_head.weight", "model.embed_tokens.weight")


def _check_left_out(run: Path, tree: dict[str, Any]) -> None:
    events = [json.loads(line)["event"] for line in (run / "journal.jsonl").read_text().splitlines()]
    measured = {frozenset((e["a"], e["b"])): e["left_out"] for e in events if e["type"] == "kinship_measured"}
    for pair, rows in (("plain math", 1), ("plain chat", 2), ("math chat", 2)):
        left_out = measured[frozenset(pair.split())]
        assert {row["tensor"]: row["rows"] for row in left_out} == dict.fromkeys(EMBEDDINGS, rows)
        assert all(0 < row["share"] < 0.01 for row in left_out)
    assert all(-1 <= kinship["pcc"] <= 1 for kinship in tree["graph"]["kinships"])


def _check_children(run: Path, children: list[str], nodes: dict[str, Any]) -> None:
    """Assert that each child loads without a warning, generates, and has the tokens of both its parents."""
    folders = [str(run / nodes[name]["checkpoint"]) for name in children]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *folders], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr.lower()
    for line in done.stdout.splitlines():
        name, words, rows, last = line.split()
        assert words == rows
        ancestors = _foundations(name, nodes)
        assert int(words) == 512 + ("math" in ancestors) + 2 * ("chat" in ancestors)
        recipe = yaml.safe_load((run / nodes[name]["recipe"]).read_text())
        assert ("tokenizer" in recipe or "tokenizer_source" in recipe) == _mixed(name, nodes)
        if "chat" in ancestors:
            assert int(last) >= 512  # <|end|> is one token


def _foundations(name: str, nodes: dict[str, Any]) -> frozenset[str]:
    parents = nodes[name]["parents"]
    return frozenset().union(*(_foundations(parent, nodes) for parent in parents)) if parents else frozenset({name})


def _mixed(name: str, nodes: dict[str, Any]) -> bool:
    """Return whether the parents have different tokens."""
    kinds = {_foundations(parent, nodes) - {"plain"} for parent in nodes[name]["parents"]}
    return len(kinds) > 1
