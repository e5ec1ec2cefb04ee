"""The kinship step: pairs of checkpoints to their kinships, in one pass over the files."""

from __future__ import annotations

from pathlib import Path

from evolve.engines.protocols import KinshipJob, KinshipResult
from evolve.lineage import Event, Kinship, KinshipMeasured, LeftOut, MeasureStep
from evolve.run.executors import Call
from evolve.run.steps.base import Begun, Task, Workshop
from evolve.run.steps.merge import find_repair

__all__ = ["begin_measuring"]


def begin_measuring(shop: Workshop, step: MeasureStep) -> Begun:
    """Measure all pairs of the step together."""
    names = tuple(sorted({name for pair in step.pairs for name in pair}))
    repair = find_repair(shop, names)
    if repair is not None:
        return repair.begin(shop)
    job = KinshipJob(
        base=Path(shop.tree.origin.base.path),
        models={name: shop.folder.locate(shop.tree.model(name)) for name in names},
        pairs=step.pairs,
        device=shop.tree.config.device,
    )
    return Task(Call("kinship", shop.engines.measure, job), _measured, None, "kinship")


def _measured(result: KinshipResult) -> tuple[Event, ...]:
    return tuple(
        KinshipMeasured(
            a=found.a,
            b=found.b,
            kinship=Kinship(pcc=found.pcc, cs=found.cs, ed=found.ed),
            left_out=tuple(LeftOut(tensor=tensor, rows=rows, share=share) for tensor, rows, share in found.left_out),
        )
        for found in result.pairs
    )
