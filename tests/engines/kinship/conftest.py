"""Tiny checkpoints written by hand, and the kinships in their plain textbook form."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from evolve.engines.kinship import measure
from evolve.engines.protocols import KinshipJob, KinshipResult

Weights = Mapping[str, torch.Tensor]


def write(
    folder: Path,
    weights: Weights,
    *,
    tokens: Sequence[str] | Mapping[str, int] | None = None,
    shards: int = 1,
    **config: object,
) -> Path:
    """A checkpoint folder; `tokens` gives it a tokenizer with these tokens, in the order of their rows."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    if tokens is not None:
        ids = tokens if isinstance(tokens, Mapping) else {token: i for i, token in enumerate(tokens)}
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": ids}, "added_tokens": []}))
    names = list(weights)
    if shards == 1:
        save_file(dict(weights), folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    places = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {name: weights[name] for name in names[i::shards]}
        save_file(part, folder / file)
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def textbook(base: Sequence[torch.Tensor], a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> tuple[float, ...]:
    """Pcc, cs and ed of three lists of tensors, in float64 over their concatenation."""
    zero, one, two = (np.concatenate([t.double().numpy().ravel() for t in ts]) for ts in (base, a, b))
    x, y = one - zero, two - zero
    cosine = x @ y / np.sqrt(x @ x) / np.sqrt(y @ y)
    return float(np.corrcoef(x, y)[0, 1]), float(cosine), float(np.linalg.norm(x - y)), len(x)


def jitter(weights: Weights, seed: int, scale: float = 1e-3) -> dict[str, torch.Tensor]:
    """Weights of a model that was trained a little further, from other data for each seed."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.Generator().manual_seed(4711)
    return {
        name: (t.double() + scale * (_noise(t, generator) + 0.5 * _noise(t, common))).to(t.dtype)
        for name, t in weights.items()
    }


def _noise(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(like.shape, dtype=torch.float64, generator=generator)


def random_weights(shapes: Mapping[str, Sequence[int]], dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: (0.05 * torch.randn(tuple(s), generator=generator)).to(dtype) for name, s in shapes.items()}


SHAPES = {
    "model.norm.weight": (7,),
    "model.layers.0.up.weight": (13, 11),
    "model.layers.1.up.weight": (5, 3, 2),
    "s": (),
}


@dataclass
class Lab:
    """Writes models below one folder and measures them."""

    folder: Path

    def model(self, name: str, weights: Weights, **options: object) -> Path:
        return write(self.folder / name, weights, **options)

    def measure(
        self, *names: str, base: str = "base", pairs: Sequence[tuple[str, str]] = (), device: str = "auto"
    ) -> KinshipResult:
        """All pairs of the names, or those given."""
        wanted = pairs or [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
        models = {name: self.folder / name for pair in wanted for name in pair}
        return measure(KinshipJob(self.folder / base, models, tuple(wanted)), lambda *_: None, device)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def family(lab: Lab) -> dict[str, dict[str, torch.Tensor]]:
    """A base and the models a, b, c, written and given back."""
    base = random_weights(SHAPES)
    found = {"base": base, "a": jitter(base, 2), "b": jitter(base, 3), "c": jitter(base, 4)}
    for name, weights in found.items():
        lab.model(name, weights)
    return found


@pytest.fixture
def chunk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Sets the elements that are read and computed at once."""

    def choose(chunk: int, block: int) -> None:
        monkeypatch.setattr("evolve.engines.kinship.meter._CPU_CHUNK", chunk)
        monkeypatch.setattr("evolve.engines.kinship.meter._CPU_BLOCK", block)

    return choose


class Helpers:
    shapes = SHAPES
    textbook = staticmethod(textbook)
    jitter = staticmethod(jitter)
    random_weights = staticmethod(random_weights)
    write = staticmethod(write)
    Lab = Lab


@pytest.fixture(scope="session")
def tools() -> type[Helpers]:
    return Helpers
