"""The supported families of models: each is built as tiny random models and passed to `evolve check` and `run`.

A family is a base model and three fine-tunes of it, with two layers, hidden size 32 and a tokenizer of 320 tokens.
`evolve check` either accepts them or gives the reason why not. If it accepts them, `evolve run` scores the three models
on four items, merges all pairs and scores the children. A family must never pass the check and fail in the run: then
the script exits with 1. It prints a Markdown table. About a minute per family.

    python benchmarks/families.py
    python benchmarks/families.py mixtral gpt_neox
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from evolve.engines.quiet import quiet_transformers
from tests.support.families import save, store_buffers, winogrande

FAMILIES = {
    "Mistral": "mistral",
    "Mixtral": "mixtral",
    "Llama": "llama",
    "Qwen2": "qwen2",
    "Qwen2-MoE": "qwen2_moe",
    "Qwen3": "qwen3",
    "Qwen3-MoE": "qwen3_moe",
    "Gemma 2": "gemma2",
    "Gemma 3 text": "gemma3_text",
    "Phi": "phi",
    "Phi-3": "phi3",
    "OLMo 2": "olmo2",
    "StableLM": "stablelm",
    "Falcon": "falcon",
    "GPT-2": "gpt2",
    "BLOOM": "bloom",
    "OPT": "opt",
    "GPT-NeoX": "gpt_neox",
    "GPT-NeoX with stored buffers": "gpt_neox",
    "Granite": "granite",
    "SmolLM3": "smollm3",
    "Cohere": "cohere",
    "Mamba": "mamba",
    "Mamba 2": "mamba2",
    "LFM2": "lfm2",
    "gpt-oss": "gpt_oss",
}
"""transformers' `model_type` by the name in the table."""

FINE_TUNES = ("one", "two", "three")
ITEMS = 4


@dataclass(frozen=True)
class Outcome:
    """The outcome of a family: a sentence for the table, and whether it failed after the check had passed."""

    words: str
    failed_late: bool = False


def write_family(folder: Path, name: str) -> Path:
    """Write the models, the items and a configuration; return the configuration's path."""
    family = FAMILIES[name]
    base = save(folder / "base", family, tied=None)
    tunes = {tune: save(folder / tune, family, tied=None, near=base, seed=i) for i, tune in enumerate(FINE_TUNES, 1)}
    if "stored buffers" in name:
        for model in (base, *tunes.values()):
            store_buffers(model)
    winogrande(folder / "winogrande", ITEMS)
    config = {
        "name": "family",
        "base_model": str(base),
        "foundation_models": {tune: str(path) for tune, path in tunes.items()},
        "strategy": {"max_generations": 1},
        "merge": {"dtype": "float32"},
        "evaluation": {
            "tasks": [{"task": "winogrande", "metric": "acc,none", "num_fewshot": 0, "limit": ITEMS}],
            "datasets": {"winogrande": str(folder / "winogrande")},
            "batch_size": ITEMS,
        },
        "device": "cpu",
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def evolve(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command of evolve without the Hub."""
    settings = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "evolve", *map(str, arguments)]
    return subprocess.run(command, env=settings, capture_output=True, text=True, check=False)


def carry_through(folder: Path, name: str) -> Outcome:
    """Check a family and run it; return the outcome."""
    with quiet_transformers():
        config = write_family(folder, name)
    run = folder / "run"
    check = evolve("check", config)
    if check.returncode == 2:
        return Outcome(f"refused by check: {reason(check, folder)}")
    if check.returncode:
        return Outcome(f"check failed: {reason(check, folder)}", failed_late=True)
    ran = evolve("run", config, "--run-dir", run)
    if ran.returncode:
        return Outcome(f"FAILED in the run: {reason(ran, folder)}", failed_late=True)
    nodes = json.loads((run / "family_tree.json").read_text(encoding="utf-8"))["nodes"]
    return outcome_of(nodes)


def outcome_of(nodes: Sequence[Mapping[str, object]]) -> Outcome:
    """Return the outcome by the nodes of the family tree: all pairs must have a scored child."""
    children = [node for node in nodes if node["kind"] != "foundation"]
    for node in nodes:
        if node["status"] != "evaluated":
            return Outcome(f"FAILED in the run: {node['id']} is {node['status']} ({node['reason']})", failed_late=True)
    if len(children) != len(FINE_TUNES):
        return Outcome(f"FAILED in the run: {len(children)} children", failed_late=True)
    return Outcome("works")


def reason(command: subprocess.CompletedProcess[str], folder: Path) -> str:
    """Return the message of a failed command on one line, without the names of temporary folders and of the recipe."""
    text = re.sub(r"\s+", " ", (command.stderr or command.stdout).replace(f"{folder}{os.sep}", ""))
    return text.strip().rpartition(" by this recipe: ")[2][-600:].replace("|", "\\|")


def main() -> int:
    """Print the table; return 1 if a family passed the check and failed in the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="transformers' model_type; by default all")
    chosen = parser.parse_args().families
    if unknown := sorted(set(chosen) - set(FAMILIES.values())):
        parser.error(f"unknown families {', '.join(unknown)}; known are {', '.join(sorted(set(FAMILIES.values())))}")
    print("| family | outcome |\n|---|---|", flush=True)
    failed_late = False
    for name, family in FAMILIES.items():
        if chosen and family not in chosen:
            continue
        with tempfile.TemporaryDirectory() as temporary:
            outcome = carry_through(Path(temporary), name)
        failed_late = failed_late or outcome.failed_late
        print(f"| {name} | {outcome.words} |", flush=True)
    return int(failed_late)


if __name__ == "__main__":
    sys.exit(main())
