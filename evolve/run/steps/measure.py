"""The kinship step: the kinships of all its pairs, in one pass over the files."""

from __future__ import annotations

from evolve.engines.protocols import KinshipJob, KinshipResult
from evolve.lineage import Event, Kinship, KinshipMeasured, LeftOut, MeasureStep
from evolve.run.executors import Call
from evolve.run.steps.base import Begun, RunContext, StepInFlight
from evolve.run.steps.repair import find_repair

__all__ = ["begin_measuring"]


def begin_measuring(context: RunContext, step: MeasureStep) -> Begun:
    """Measure all pairs of the step together."""
    names = tuple(sorted({name for pair in step.pairs for name in pair}))
    repair = find_repair(context, names)
    if repair is not None:
        return repair.begin(context)
    tree, folder = context.tree, context.folder
    job = KinshipJob(
        base=folder.locate(tree.base_path),
        models={name: folder.checkpoint_of(tree.model(name)) for name in names},
        pairs=step.pairs,
    )
    return StepInFlight(Call("kinship", context.engines.measure, job, gpus=1), _measured, None, "kinship")


def _measured(result: KinshipResult) -> tuple[Event, ...]:
    return tuple(
        KinshipMeasured(
            a=pair.a,
            b=pair.b,
            kinship=Kinship(pcc=pair.pcc, cs=pair.cs, ed=pair.ed),
            left_out=tuple(LeftOut(tensor=tensor, rows=rows, share=share) for tensor, rows, share in pair.left_out),
        )
        for pair in result.pairs
    )
