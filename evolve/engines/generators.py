"""The global random generators of Python, numpy and torch, which mergekit and lm-eval reseed.

Importing this module does not load torch.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["Generators", "preserved_generators", "seed_generators"]


@dataclass(frozen=True)
class Generators:
    """State of the global generators.

    Attributes:
        python: State of `random`.
        numpy: State of `numpy.random`.
        torch: State of torch's CPU generator; None if torch has not been imported.
        cuda: States of the CUDA generators by device; None if torch does not use CUDA.
    """

    python: Any
    numpy: tuple[Any, ...]
    torch: bytes | None
    cuda: tuple[bytes, ...] | None

    @classmethod
    def capture(cls) -> Generators:
        """Read the present state of all generators, without importing torch."""
        import numpy as np

        state: Any = np.random.get_state()
        kind, keys, *rest = state
        torch = sys.modules.get("torch")
        cuda = torch.cuda if torch is not None and torch.cuda.is_initialized() else None
        return cls(
            python=random.getstate(),
            numpy=(kind, bytes(keys), *rest),
            torch=bytes(torch.get_rng_state().numpy()) if torch is not None else None,
            cuda=tuple(bytes(one.numpy()) for one in cuda.get_rng_state_all()) if cuda is not None else None,
        )

    def restore(self) -> None:
        """Set all generators to this state; torch's only if their state was captured."""
        import numpy as np

        random.setstate(self.python)
        kind, keys, *rest = self.numpy
        np.random.set_state((kind, np.frombuffer(keys, dtype=np.uint32), *rest))
        if self.torch is not None:
            import torch

            torch.set_rng_state(_tensor(self.torch))
            if self.cuda is not None:
                torch.cuda.set_rng_state_all([_tensor(state) for state in self.cuda])


def seed_generators(seed: int) -> None:
    """Seed all generators with one number, as `lm_eval --seed` does."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Restore the generators at the end of the block to their state at its start."""
    before = Generators.capture()
    try:
        yield
    finally:
        before.restore()


def _tensor(state: bytes) -> Any:
    import torch

    return torch.frombuffer(bytearray(state), dtype=torch.uint8)
