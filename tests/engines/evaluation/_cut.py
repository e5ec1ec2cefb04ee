"""An evaluation slow enough to be killed; `test_request_cache.py` runs it as a script."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import _world


def main(model: str, data: str, output: str, caches: str, datasets_cache: str) -> None:
    import datasets
    import torch
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(1)
    datasets.config.HF_DATASETS_CACHE = Path(datasets_cache)
    for name in ("_model_call", "_model_generate"):
        call = getattr(HFLM, name)

        def slow(*args, _call=call, **kwargs):
            time.sleep(0.4)
            return _call(*args, **kwargs)

        setattr(HFLM, name, slow)
    three = _world.three_tasks(Path(data))
    _world.score(Path(model), three, Path(output), request_caches=_world.request_caches(Path(caches), three))


if __name__ == "__main__":
    main(*sys.argv[1:])
