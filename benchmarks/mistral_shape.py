"""Time and memory of merges and kinship measurements of models of the Mistral-7B shape.

Makes a base of 32000 rows and three models of 32001, 32000 and 32002 rows with random weights (58 GB with all 32
layers, 5.7 GB with two; kept for the next time), and then, turn by turn:

- reads all their files plainly from beginning to end, and writes a file of the size of one model;
- measures the kinship of all pairs in one pass (`evolve.engines.kinship.measure`);
- merges two models by the default recipe, with the tokenizer setting `auto` (`evolve.engines.merging.merge`), once for
  a pair of different vocabularies.

Every part of a turn runs in a fresh process, so that peak memory is measured separately; engines are imported before
the clock starts. Files are read from the disk if the system permits emptying its page cache; if not, the output states
that they were cached. Rates count bytes of weights: a pass reads each model once, a merge reads two models and writes
one. A ratio compares a rate with plain reading and writing in the same turn; for a merge that is the time of reading
both parents and writing the child. The stages of a merge come from its progress reports.

    python benchmarks/mistral_shape.py mistral --layers 2 --turns 3 --json figures.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

from ceilings import copy_rates, drop_caches, peak_memory, read_all, write_all
from synthetic import Shape, make_family

from evolve.engines.checkpoints import read_layout
from evolve.engines.kinship import measure
from evolve.engines.merging import load_template, merge, render, resolve_tokenizer
from evolve.engines.protocols import KinshipJob, MergeJob

Figures = dict[str, Any]


class Stages:
    """A report that adds up the time of each stage; a stage begins with its first report."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stage, self._since = "preparing", time.perf_counter()

    def __call__(self, words: str, done: int, total: int) -> None:
        """Add a report."""
        now = time.perf_counter()
        self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = words if done < total else f"after {words}", now


def time_read(folders: Sequence[Path], cold: bool) -> Figures:  # noqa: FBT001 - called through a pool
    """Read all weights plainly."""
    was_cold = cold and drop_caches()
    seconds, size = read_all(folder / name for folder in folders for name in read_layout(folder).files)
    return {"seconds": seconds, "bytes": size, "gb_per_s": size / seconds / 1e9, "cold": was_cold}


def time_write(path: Path, size: int) -> Figures:
    """Write a file plainly, and with a sync."""
    written, synced = write_all(path, size)
    return {"seconds": written, "gb_per_s": size / written / 1e9, "synced_gb_per_s": size / synced / 1e9}


def time_kinship(job: KinshipJob, device: str, cold: bool) -> Figures:  # noqa: FBT001
    """Measure all pairs in one pass over base and models."""
    import torch  # noqa: F401 - before the clock starts

    was_cold = cold and drop_caches()
    with peak_memory() as memory:
        result = measure(job, lambda *_: None, device)
    rate = result.bytes_read / result.seconds / 1e9
    values = {f"{pair.a} {pair.b}": pair.pcc for pair in result.pairs}
    return {"seconds": result.seconds, "gb_per_s": rate, "cold": was_cold, "memory": memory, "pcc": values}


def time_merge(job: MergeJob, device: str, cold: bool) -> Figures:  # noqa: FBT001
    """Merge two models, with verification."""
    import mergekit.merge  # noqa: F401 - before the clock starts
    from transformers import MistralForCausalLM  # noqa: F401

    shutil.rmtree(job.output, ignore_errors=True)
    job.output.mkdir()
    was_cold, stages = cold and drop_caches(), Stages()
    try:
        with peak_memory() as memory:
            result = merge(job, stages, device)
        moved = _weights(*job.parents) + _weights(job.output)
    finally:
        shutil.rmtree(job.output)
    rate = moved / result.seconds / 1e9
    found = {"seconds": result.seconds, "gb_per_s": rate, "cold": was_cold, "memory": memory}
    return found | {"stages": {name: seconds for name, seconds in stages.seconds.items() if seconds >= 0.005}}


def alone(work: Callable[..., Figures], *arguments: Any) -> Figures:
    """Return the result of a function in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def jobs(base: Path, models: Mapping[str, Path]) -> tuple[KinshipJob, MergeJob]:
    """Measure all pairs in one pass, and merge the first two models."""
    pairs = tuple(combinations(models, 2))
    parents = (models["model-1"], models["model-2"])
    recipe = render(
        load_template("slerp-gradient"),
        parents=parents,
        base=base,
        num_layers=read_layout(base).setting("num_hidden_layers"),
        dtype="bfloat16",
        tokenizer=resolve_tokenizer("auto", parents),
    )
    return KinshipJob(base, models, pairs), MergeJob(recipe, parents, base.parent / "child")


def take_turn(kinship: KinshipJob, merging: MergeJob, device: str, cold: bool) -> Figures:  # noqa: FBT001
    """Do all measurements once, and compare the engines with the ceilings."""
    folders, size = [kinship.base, *kinship.models.values()], _weights(kinship.base)
    turn = {
        "read": alone(time_read, folders, cold),
        "kinship": alone(time_kinship, kinship, device, cold),
        "write": alone(time_write, kinship.base.parent / "plain-write", size),
        "merge": alone(time_merge, merging, device, cold),
        "copies": alone(copy_rates),
    }
    reading, writing = turn["read"]["gb_per_s"], turn["write"]["gb_per_s"]
    least = (_weights(*merging.parents) / reading + size / writing) / 1e9
    turn["ratios"] = {
        "kinship to read": turn["kinship"]["gb_per_s"] / reading,
        "merge to read and write": least / turn["merge"]["seconds"],
        **{f"kinship to {name}": turn["kinship"]["gb_per_s"] / rate for name, rate in turn["copies"].items()},
    }
    return turn


def show(turn: Figures) -> None:
    """Print a turn."""
    state = "cold" if turn["kinship"]["cold"] and turn["merge"]["cold"] else "from the page cache"
    print(f"  files are read {state}")
    for name in ("read", "write", "kinship", "merge"):
        line = f"  {name:8} {turn[name]['seconds']:7.1f} s {turn[name]['gb_per_s']:7.2f} GB/s"
        memory = {kind: f"{size / 1e9:.2f}" for kind, size in turn[name].get("memory", {}).items()}
        print(line + "".join(f"  {kind} {size} GB" for kind, size in memory.items()))
    print(f"  written and synced {turn['write']['synced_gb_per_s']:.2f} GB/s")
    print("  stages of the merge: " + ", ".join(f"{n} {s:.1f} s" for n, s in turn["merge"]["stages"].items()))
    for name, rate in turn["copies"].items():
        print(f"  {name} {rate:.1f} GB/s")
    print("  ratios: " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in turn["ratios"].items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the checkpoints, which are kept for the next time")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--cold", action=argparse.BooleanOptionalAction, default=True, help="empty the page cache")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in a worker of a run
    began = time.perf_counter()
    base, models = make_family(options.folder.resolve(), Shape(layers=options.layers))
    size = _weights(base)
    print(f"models of {size / 1e9:.2f} GB, {options.layers} layers, made in {time.perf_counter() - began:.0f} s")
    kinship, merging = jobs(base, models)
    turns = []
    for number in range(1, options.turns + 1):
        turns.append(take_turn(kinship, merging, options.device, options.cold))
        print(f"turn {number}")
        show(turns[-1])
    ratios = {name: median(turn["ratios"][name] for turn in turns) for name in turns[0]["ratios"]}
    print("medians: " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))
    if options.json:
        figures = {"layers": options.layers, "bytes": size, "device": options.device, "turns": turns, "medians": ratios}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def _weights(*folders: Path) -> int:
    """Return the bytes of the weight files of checkpoints."""
    return sum(sum(read_layout(folder).files.values()) for folder in folders)


if __name__ == "__main__":
    main()
