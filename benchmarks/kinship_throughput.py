"""The speed of kinship measurements, compared with plain reading of the same files.

Makes a base and some models of one size, then takes turns at reading all files and at measuring all pairs of models:

    python benchmarks/kinship_throughput.py models --models 3 --megabytes 200

The first line of each turn is what the page cache (or the disk, where it holds less than the files) gives.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import combinations
from pathlib import Path

import torch
from safetensors.torch import save_file

from evolve.engines.kinship import measure
from evolve.engines.protocols import KinshipJob

WIDTH = 4096


def make(folder: Path, seed: int, size: int) -> Path:
    """Write a model of `size` bytes of bfloat16 in matrices of 4096 columns, similar to the common base."""
    if (folder / "model.safetensors").is_file() and (folder / "model.safetensors").stat().st_size >= size:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    common, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    rows, weights = 1024, {}
    for i in range(max(1, size // (2 * WIDTH * rows))):
        base = 0.02 * torch.randn(rows, WIDTH, generator=common)
        drift = 0.002 * torch.randn(rows, WIDTH, generator=own) if seed else 0
        weights[f"model.layers.{i}.weight"] = (base + drift).to(torch.bfloat16)
    save_file(weights, folder / "model.safetensors")
    return folder


def read(folders: list[Path]) -> tuple[float, int]:
    """Read all files from beginning to end into one buffer; return seconds and bytes."""
    began, size, buffer = time.perf_counter(), 0, bytearray(8 << 20)
    for folder in folders:
        with (folder / "model.safetensors").open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                size += count
    return time.perf_counter() - began, size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=200, help="size of each model")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    folders = [make(options.folder / f"m{i}", i, options.megabytes << 20) for i in range(options.models + 1)]
    models = {folder.name: folder for folder in folders[1:]}
    job = KinshipJob(folders[0], models, tuple(combinations(models, 2)))
    print(f"{options.models} models and a base of {options.megabytes} MB, {len(job.pairs)} pairs, {options.device}")
    for turn in range(options.turns):
        seconds, size = read(folders)
        result = measure(job, lambda *_: None, options.device)
        plain, ours = size / seconds / 1e9, result.bytes_read / result.seconds / 1e9
        print(f"turn {turn + 1}: reading {plain:5.2f} GB/s, kinship {ours:5.2f} GB/s, ratio {ours / plain:.2f}")


if __name__ == "__main__":
    main()
