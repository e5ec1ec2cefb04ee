"""An evaluation slow enough to be killed; `test_request_cache.py` runs it as a script."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import _world


def main(model: str, data: str, output: str, caches: str, datasets_cache: str) -> None:
    import datasets
    import torch

    from evolve.engines.evaluation.hf.model import SharedPrefixLM

    torch.set_num_threads(1)
    datasets.config.HF_DATASETS_CACHE = Path(datasets_cache)
    for name in ("_answer_batch", "_generate_window"):
        call = getattr(SharedPrefixLM, name)

        def slow(*args, _call=call, **kwargs):
            # Longer than the interval of the request cache, so that each batch is committed before the next is done.
            time.sleep(1.2)
            return _call(*args, **kwargs)

        setattr(SharedPrefixLM, name, slow)
    three = _world.three_tasks(Path(data))
    request_caches = _world.request_caches(Path(caches), three)
    _world.score(Path(model), three, Path(output), request_caches=request_caches, batch_size=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
