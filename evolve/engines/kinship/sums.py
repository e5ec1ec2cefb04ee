"""The sums from which the three metrics are computed, and the metrics (arXiv 2410.12613, section 3).

For the deltas x and y of two models, over n parameters:

    pcc = (n Σxy - Σx Σy) / sqrt((n Σx² - (Σx)²) (n Σy² - (Σy)²))
    cs  = Σxy / sqrt(Σx² Σy²)
    ed  = sqrt(Σ(x - y)²)

Everything is computed in float64, in which the difference of two float32, float16 or bfloat16 numbers is exact or
nearly so. So no precision is lost if deltas are much smaller than weights, or have a large mean. Σ(x - y)² is a
separate sum, so that no precision is lost if two models are nearly equal. The work is done in blocks that fit a
processor's cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evolve.engines.kinship.plan import Pair
from evolve.engines.kinship.reading import Chunk
from evolve.errors import KinshipError

if TYPE_CHECKING:
    from torch import Tensor, device

__all__ = ["PairSums", "Sums"]

_BASE, _DIFFERENCE = 0, 1  # keys that no model can have


@dataclass
class PairSums:
    """The sums of one pair so far, over `count` parameters."""

    count: int = 0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    yy: float = 0.0
    xy: float = 0.0
    dd: float = 0.0

    def metrics(self, pair: Pair, base: str) -> tuple[float, float, float]:
        """Return pcc, cs and ed.

        Raises:
            KinshipError: A delta is zero or the same number everywhere, so that the metrics are not defined.
        """
        for name, square in zip(pair, (self.xx, self.yy), strict=True):
            if not square:
                raise KinshipError(
                    f"the weights of {name} are those of the base model {base}, so its kinship to other models is "
                    "not defined: leave it out, or check that base_model is the model it was trained from"
                )
        n = self.count
        spread = [n * self.xx - self.x * self.x, n * self.yy - self.y * self.y]
        for name, value, square in zip(pair, spread, (self.xx, self.yy), strict=True):
            if value <= n * square * 1e-12:  # within the rounding of the sums
                raise KinshipError(
                    f"the weights of {name} differ from those of the base model {base} by one number everywhere: "
                    "its Pearson correlation with other models is not defined"
                )
        pcc = (n * self.xy - self.x * self.y) / math.sqrt(spread[0]) / math.sqrt(spread[1])
        cs = self.xy / math.sqrt(self.xx) / math.sqrt(self.yy)
        return max(-1.0, min(1.0, pcc)), max(-1.0, min(1.0, cs)), math.sqrt(self.dd)


class Sums:
    """The sums of all pairs, over the chunks added so far."""

    def __init__(self, device: device, block: int) -> None:
        """Compute on `device`, with `block` elements at once."""
        self.pairs: dict[Pair, PairSums] = {}
        self._device = device
        self._block = block
        self._memory: dict[str | int, Tensor] = {}

    def add(self, chunk: Chunk) -> None:
        """Add the elements of a chunk to the sums of its pairs; the chunk may be overwritten afterwards.

        Raises:
            KinshipError: A weight is not finite.
        """
        elements = chunk.base.numel()
        for start in range(0, elements, self._block):
            self._add_block(chunk, start, min(start + self._block, elements))

    def _add_block(self, chunk: Chunk, start: int, stop: int) -> None:
        import torch

        base = self._load(_BASE, chunk.base[start:stop])
        deltas = {name: self._load(name, part[start:stop]).sub_(base) for name, part in chunk.models.items()}
        terms = [term for delta in deltas.values() for term in (delta.sum(), torch.dot(delta, delta))]
        difference = self._room(_DIFFERENCE, stop - start)
        for a, b in chunk.piece.pairs:
            torch.sub(deltas[a], deltas[b], out=difference)
            terms += [torch.dot(deltas[a], deltas[b]), torch.dot(difference, difference)]
        values = torch.stack(terms).tolist()  # the only time that the device is waited for
        if not all(map(math.isfinite, values)):
            self._refuse(chunk, base, deltas)
        ones = {name: (values[2 * i], values[2 * i + 1]) for i, name in enumerate(deltas)}
        rest = values[2 * len(deltas) :]
        for i, (a, b) in enumerate(chunk.piece.pairs):
            sums = self.pairs.setdefault((a, b), PairSums())
            sums.count += stop - start
            sums.x, sums.xx = sums.x + ones[a][0], sums.xx + ones[a][1]
            sums.y, sums.yy = sums.y + ones[b][0], sums.yy + ones[b][1]
            sums.xy, sums.dd = sums.xy + rest[2 * i], sums.dd + rest[2 * i + 1]

    def _room(self, key: str | int, size: int) -> Tensor:
        """Return memory for float64 numbers, reused for each block."""
        import torch

        if key not in self._memory:
            self._memory[key] = torch.empty(self._block, dtype=torch.float64, device=self._device)
        return self._memory[key][:size]

    def _load(self, key: str | int, part: Tensor) -> Tensor:
        """Return a block on the device as float64."""
        # Converted on the device, so that the copy to a GPU moves a quarter of the bytes.
        return self._room(key, part.numel()).copy_(part.to(self._device, non_blocking=True))

    def _refuse(self, chunk: Chunk, base: Tensor, deltas: Mapping[str, Tensor]) -> None:
        """Raise, and name the tensor and the model whose numbers are not finite."""
        names = [name for name, delta in deltas.items() if not bool(delta.isfinite().all())]
        whose = "the base model" if not bool(base.isfinite().all()) else names[0] if names else "one of the models"
        raise KinshipError(
            f"{chunk.piece.tensor} of {whose} holds numbers that are not finite (or too large to be squared): "
            "the checkpoint is damaged; download or merge it again"
        )
