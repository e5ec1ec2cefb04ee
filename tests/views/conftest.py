"""Trees folded from events, and rendering to plain text.

The averages, gains and kinships are those of table 2 of arXiv 2410.12613; its scores per task are not printed there, so
each task here is off the average by a fixed amount that sums to zero.
"""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from evolve.lineage import (
    CheckpointRemade,
    FamilyTree,
    FoundationEntry,
    GenerationPlanned,
    Kinship,
    KinshipMeasured,
    ModelEvaluated,
    ModelFailed,
    ModelMerged,
    PlannedMerge,
    RunStarted,
    RunStopped,
    Score,
    StepRetried,
)

TASKS = {"winogrande": 0.08, "gsm8k": -0.10, "truthfulqa_mc2": 0.02}
METRICS = {"winogrande": "acc,none", "gsm8k": "exact_match,strict-match", "truthfulqa_mc2": "acc,none"}
STDERR = 0.012

FOUNDATIONS = {"MetaMath": 63.72, "Instruct": 61.82, "Open-chat": 66.28}
GENERATION_1 = {
    "model-1-1": ("MetaMath", "Instruct", 62.17, 0.01),
    "model-1-2": ("Open-chat", "Instruct", 64.02, -0.02),
    "model-1-3": ("Open-chat", "MetaMath", 66.84, 0.05),
}
GENERATION_2 = {
    "model-2-1": ("model-1-3", "Open-chat", 68.72, 0.93),
    "model-2-2": ("model-1-3", "model-1-2", 61.47, 0.57),
    "model-2-3": ("Open-chat", "model-1-2", 61.32, 0.58),
}
GREEDY = {
    1: GENERATION_1,
    2: GENERATION_2,
    3: {
        "model-3-1": ("model-2-1", "Open-chat", 68.59, 0.95),
        "model-3-2": ("model-2-1", "model-1-3", 67.74, 0.93),
    },
    4: {
        "model-4-1": ("model-2-1", "model-3-1", 68.51, 0.98),
        "model-4-2": ("model-2-1", "model-3-2", 68.04, 0.98),
        "model-4-3": ("model-3-1", "model-3-2", 68.53, 0.94),
    },
}
KINSHIP = {
    1: GENERATION_1,
    2: {**GENERATION_2, "model-2-exp": ("model-1-3", "Instruct", 68.11, -0.02)},
    3: {
        "model-3-2": ("model-2-1", "model-1-3", 67.74, 0.93),
        "model-3-3": ("model-2-1", "model-2-exp", 69.06, 0.24),
        "model-3-4": ("model-2-exp", "model-1-3", 68.61, 0.32),
        "model-3-exp": ("model-2-1", "model-1-1", 68.15, 0.03),
    },
}


class Family:
    """A run told event by event."""

    def __init__(self, foundations=None, *, name="paper", strategy=None, evaluation=None, **config):
        self.tree = FamilyTree()
        self.foundations = FOUNDATIONS if foundations is None else foundations
        tasks = [{"task": task, "metric": METRICS[task]} for task in TASKS]
        self.tree.apply(
            RunStarted(
                run=name,
                config={
                    "name": name,
                    "base_model": "mistralai/Mistral-7B-v0.1",
                    "foundation_models": {key: f"hub/{key}" for key in self.foundations},
                    "strategy": strategy or {},
                    "evaluation": {"tasks": tasks, **(evaluation or {})},
                    **config,
                },
                versions={},
                recipes={},
                data={},
                base=_entry("base"),
                foundations=tuple(_entry(key) for key in self.foundations),
            )
        )

    def with_foundations(self, stderr=STDERR):
        for name, average in self.foundations.items():
            self.evaluated(name, average, stderr)
        return self

    def planned(self, generation, *children):
        """Plan children, each (name, parent 1, parent 2) and, where it matters, its recipe."""
        merges = tuple(
            PlannedMerge(
                name=child[0],
                parents=child[1:3],
                kind="exploration" if "exp" in child[0] else "merge",
                recipe=child[3] if len(child) > 3 else "slerp-gradient",
                decision=f"why {child[0]}",
            )
            for child in children
        )
        top = self.tree.top(self.tree.config.strategy.top_k)
        self.tree.apply(GenerationPlanned(generation=generation, top=top, merges=merges))
        return self

    def akin(self, a, b, pcc, ed=1.5):
        self.tree.apply(KinshipMeasured(a=a, b=b, kinship=Kinship(pcc=pcc, cs=pcc / 2, ed=ed)))
        return self

    def merged(self, name, seconds=60.0):
        event = ModelMerged(
            model=name,
            identity=f"id-{name}",
            checkpoint=f"models/{name}",
            recipe=f"recipes/{name}.yaml",
            bytes=14_500_000_000,
            seconds=seconds,
        )
        self.tree.apply(event)
        return self

    def evaluated(self, name, average, stderr=STDERR, *, tasks=TASKS, seconds=1800.0, reused=False):
        scores = {
            task: Score(metric=METRICS.get(task, "acc,none"), value=average / 100 + offset, stderr=stderr)
            for task, offset in tasks.items()
        }
        self.tree.apply(ModelEvaluated(model=name, scores=scores, seconds=seconds, batch_size=16, reused=reused))
        return self

    def failed(self, name, reason, step="merge"):
        self.tree.apply(ModelFailed(model=name, step=step, reason=reason, attempts=2))
        return self

    def retried(self, name, reason, step="merge"):
        self.tree.apply(StepRetried(model=name, step=step, reason=reason, attempt=1))
        return self

    def remade(self, name, reason):
        self.tree.apply(CheckpointRemade(model=name, reason=reason, identity=f"id-{name}", bytes=1, seconds=1.0))
        return self

    def stopped(self, reason, detail):
        self.tree.apply(RunStopped(reason=reason, generation=self.tree.generation, detail=detail))
        return self

    def told(self, experiment):
        """Whole generations of the paper: planned, measured, merged, scored."""
        for generation, children in experiment.items():
            self.planned(generation, *((name, a, b) for name, (a, b, _, _) in children.items()))
            for name, (a, b, average, pcc) in children.items():
                self.akin(a, b, pcc).merged(name).evaluated(name, average)
        return self


def _entry(name):
    path = f"/models/{name}"
    return FoundationEntry(
        name=name, source=f"hub/{name}", revision="abc123", path=path, identity=f"id-{name}", bytes=14_483_464_192
    )


@pytest.fixture
def family():
    """The `Family` class: a test tells its own run."""
    return Family


@pytest.fixture
def greedy():
    """The paper's greedy experiment, complete."""
    told = Family(name="greedy", strategy={"name": "greedy"}).with_foundations().told(GREEDY)
    return told.stopped("converged", "the best 3 models are the same as before generation 4").tree


@pytest.fixture
def kinship():
    """The first three generations of the paper's kinship experiment, not stopped."""
    return Family(name="kinship").with_foundations().told(KINSHIP).tree


@pytest.fixture
def render():
    """Plain text of a view as a pipe gets it: 80 columns, no colour, no trailing blanks."""

    def text(view, width=80, encoding="utf-8"):
        file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        console = Console(file=file, width=width, color_system=None, force_terminal=False)
        console.print(view)
        file.seek(0)
        return "\n".join(line.rstrip() for line in file.read().splitlines()) + "\n"

    return text
