"""Family trees for tests, built event by event.

The averages, gains and kinships are those of table 2 of arXiv 2410.12613; its scores per task are not printed there, so
each task here differs from the average by a fixed amount, and these sum to zero.
"""

from __future__ import annotations

from collections.abc import Iterable

from evolve.config import MergeConfig
from evolve.lineage import (
    CheckpointRemade,
    Event,
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
    """A run, built event by event; the events have the times that `at` sets."""

    def __init__(
        self,
        foundations=None,
        *,
        name="paper",
        strategy=None,
        evaluation=None,
        versions=None,
        data=None,
        differing_settings=None,
        **config,
    ):
        self.tree = FamilyTree()
        self.time = None
        self.foundations = FOUNDATIONS if foundations is None else foundations
        tasks = [{"task": task, "metric": METRICS[task]} for task in TASKS]
        self.apply(
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
                versions=versions or {},
                recipes=dict.fromkeys(MergeConfig.model_validate(config.get("merge", {})).recipes, "text"),
                data=data or {},
                differing_settings=differing_settings or {},
                base=_entry("base"),
                foundations=tuple(_entry(key) for key in self.foundations),
            )
        )

    def apply(self, event):
        self.tree.apply(event, self.time)
        return self

    def at(self, time):
        """Set the time of the events that follow."""
        self.time = time
        return self

    def with_foundations(self, stderr=STDERR):
        for name, average in self.foundations.items():
            self.evaluated(name, average, stderr)
        return self

    def planned(self, generation, *children):
        """Plan children, each (name, parent 1, parent 2) and optionally its recipe."""
        merges = tuple(
            PlannedMerge(
                name=child[0],
                parents=child[1:3],
                kind="exploration" if "exp" in child[0] else "merge",
                recipe=child[3] if len(child) > 3 else self.tree.config.merge.recipes[0],
                decision=f"why {child[0]}",
            )
            for child in children
        )
        top = self.tree.top(self.tree.config.strategy.top_k)
        return self.apply(GenerationPlanned(generation=generation, top=top, merges=merges))

    def measured(self, a, b, pcc, ed=1.5):
        return self.apply(KinshipMeasured(a=a, b=b, kinship=Kinship(pcc=pcc, cs=pcc / 2, ed=ed)))

    def merged(self, name, seconds=60.0, tokenizer="plain"):
        event = ModelMerged(
            model=name,
            identity=f"id-{name}",
            checkpoint=f"models/{name}",
            recipe=f"recipes/{name}.yaml",
            bytes=14_500_000_000,
            seconds=seconds,
            tokenizer=tokenizer,
        )
        return self.apply(event)

    def evaluated(self, name, average, stderr=STDERR, *, tasks=TASKS, seconds=1800.0, reused=False, reused_tasks=()):
        scores = {
            task: Score(metric=METRICS.get(task, "acc,none"), value=average / 100 + offset, stderr=stderr)
            for task, offset in tasks.items()
        }
        event = ModelEvaluated(
            model=name, scores=scores, seconds=seconds, batch_size=16, reused=reused, reused_tasks=reused_tasks
        )
        return self.apply(event)

    def failed(self, name, reason, step="merge"):
        return self.apply(ModelFailed(model=name, step=step, reason=reason, attempts=2))

    def retried(self, name, reason, step="merge"):
        return self.apply(StepRetried(model=name, step=step, reason=reason, attempt=1))

    def remade(self, name, reason):
        return self.apply(CheckpointRemade(model=name, reason=reason, identity=f"id-{name}", bytes=1, seconds=1.0))

    def stopped(self, reason, detail):
        return self.apply(RunStopped(reason=reason, generation=self.tree.generation, detail=detail))

    def complete(self, experiment):
        """Plan, measure, merge and score complete generations of the paper."""
        for generation, children in experiment.items():
            self.planned(generation, *((name, a, b) for name, (a, b, _, _) in children.items()))
            for name, (a, b, average, pcc) in children.items():
                self.measured(a, b, pcc).merged(name).evaluated(name, average)
        return self


def _entry(name):
    path = f"/models/{name}"
    return FoundationEntry(
        name=name, source=f"hub/{name}", revision="abc123", path=path, identity=f"id-{name}", bytes=14_483_464_192
    )


def greedy_run():
    """Return the paper's greedy experiment, complete."""
    run = Family(name="greedy", strategy={"name": "greedy"}).with_foundations().complete(GREEDY)
    return run.stopped("converged", "the best 3 models are the same as before generation 4").tree


def kinship_run():
    """Return the first three generations of the paper's kinship experiment, not stopped."""
    return Family(name="kinship").with_foundations().complete(KINSHIP).tree


def fold(events: Iterable[Event]) -> FamilyTree:
    """Return the family tree of a run's events."""
    tree = FamilyTree()
    for event in events:
        tree.apply(event)
    return tree
