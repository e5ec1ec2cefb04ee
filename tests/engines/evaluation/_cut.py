"""An evaluation that is slow enough to be killed; run as a script by `test_request_cache.py`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import _world


def main(model: str, data: str, output: str, stem: str, datasets_cache: str) -> None:
    import datasets
    import torch
    from lm_eval.models.huggingface import HFLM

    from evolve.engines.evaluation import evaluate

    torch.set_num_threads(1)
    datasets.config.HF_DATASETS_CACHE = Path(datasets_cache)
    for name in ("_model_call", "_model_generate"):
        call = getattr(HFLM, name)

        def slow(*args, _call=call, **kwargs):
            time.sleep(0.4)
            return _call(*args, **kwargs)

        setattr(HFLM, name, slow)
    job = _world.job(Path(model), _world.three_tasks(Path(data)), Path(output), request_cache=Path(stem))
    evaluate(job, _world.silent)


if __name__ == "__main__":
    main(*sys.argv[1:])
