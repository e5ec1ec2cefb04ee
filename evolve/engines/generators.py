"""The global random generators, which lm-eval reseeds."""

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
    """State of the global generators of Python, numpy and torch (CPU, and CUDA where it is in use).

    torch is not imported for it: its part is None where nothing has imported it yet.
    """

    python: Any
    numpy: tuple[Any, ...]
    torch: bytes | None
    cuda: tuple[bytes, ...] | None

    @classmethod
    def capture(cls) -> Generators:
        """Reads the state of all generators."""
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
        """Puts all generators back into this state; torch's only if they were in use when it was read."""
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
    """Seeds as lm-eval's `simple_evaluate` does."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Leaves the generators as they were before, whatever lm-eval does to them."""
    before = Generators.capture()
    try:
        yield
    finally:
        before.restore()


def _tensor(state: bytes) -> Any:
    import torch

    return torch.frombuffer(bytearray(state), dtype=torch.uint8)
