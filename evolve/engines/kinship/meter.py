"""Measure the kinships of one job: plan, stream, sum."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from evolve.engines.devices import device_name
from evolve.engines.kinship.plan import Plan, make_plan
from evolve.engines.protocols import KinshipJob, KinshipResult, PairKinship, Report

if TYPE_CHECKING:
    import torch

    from evolve.engines.kinship.sums import Sums

__all__ = ["measure"]

_CPU_CHUNK, _CPU_BLOCK = 1 << 20, 1 << 17  # elements; a block of float64 numbers is 1 MiB
_GPU_CHUNK, _GPU_TOTAL = 1 << 24, 1 << 28  # elements of one model, and of all together (2 GiB as float64)


def measure(job: KinshipJob, report: Report, device: str = "auto") -> KinshipResult:
    """Measure all pairs of a job in one pass over the files (arXiv 2410.12613, section 3).

    The kinship of a pair is the Pearson correlation (`pcc`), the cosine (`cs`, with its sign) and the Euclidean
    distance (`ed`) of two deltas. A delta is the weights of a model minus those of the base, over all parameters that
    the base and both models share. A kinship does not depend on the other pairs of the job, nor on the order of the
    two models.

    Each row of each model is read once, and only a chunk of it is in memory at a time. Types may differ between
    models; everything is computed in float64. Not compared are:

    - tensors that are not of a floating type, and constants that old exports store;
    - output embeddings that are tied to the input embeddings (the tensor counts once);
    - tensors that the base or one of the two models lacks;
    - rows of the embeddings whose token one of the three tokenizers lacks, and rows of no token. Rows are paired by
      token. If both models have as many rows as the base, and the same tokenizer or none, all rows are compared,
      padding included.

    `PairKinship.left_out` lists what was left out of the last two kinds, with the number of rows that at least one of
    the three has.

    Args:
        job: Base, models, pairs. Models in no pair are not read.
        report: Called with the number of bytes read so far.
        device: A name that `device_name` accepts.

    Raises:
        KinshipError: A delta is zero or constant, a weight is not finite, or a pair shares no parameter or names an
            unknown model.
        ConfigError: The device is missing.
        ModelError: A checkpoint is damaged, quantized or of another shape than the base, only one of the two ties its
            embeddings, or their numbers of rows differ and one has no tokenizer.
    """
    began = time.perf_counter()
    if not job.pairs:
        return KinshipResult((), 0.0)
    import torch

    plan = make_plan(job)
    with _one_thread():
        sums, size = _sum(plan, torch.device(device_name(device)), report)
    found = {}
    for pair, left_out in plan.left_out.items():
        pcc, cs, ed = sums.pairs[pair].metrics(pair, str(job.base))
        found[frozenset(pair)] = (pcc, cs, ed, sums.pairs[pair].count, left_out)
    return KinshipResult(
        pairs=tuple(PairKinship(a, b, *found[frozenset((a, b))]) for a, b in job.pairs),
        seconds=time.perf_counter() - began,
        bytes_read=size,
    )


def _sum(plan: Plan, device: torch.device, report: Report) -> tuple[Sums, int]:
    """Read all pieces once; return the sums and the number of bytes read."""
    from evolve.engines.kinship.reading import stream
    from evolve.engines.kinship.sums import Sums

    gpu = device.type == "cuda"
    models = (
        max(len(piece.models) for piece in plan.pieces) + 3
    )  # and the base, the difference, and a buffer being copied
    limit = min(_GPU_CHUNK, _GPU_TOTAL // models) if gpu else _CPU_CHUNK
    widest = max(piece.width for piece in plan.pieces)
    sums = Sums(device, max(limit, widest) if gpu else _CPU_BLOCK)
    done, total = 0, sum(piece.bytes for piece in plan.pieces)
    report("measuring kinship", done, total)
    with closing(stream(plan.pieces, limit, pinned=gpu)) as chunks:
        for chunk in chunks:
            sums.add(chunk)
            done += chunk.bytes
            report("measuring kinship", done, total)
    return sums, done


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit torch to one thread: enough to keep up with a disk, and faster on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
