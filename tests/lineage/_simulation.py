"""A complete run without models: `plan` decides, and invented scores and kinships are the outcomes.

As a script it prints the journal of one run, so that a test can compare fresh processes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from evolve.config import Config
from evolve.lineage import (
    Estimate,
    EvaluateStep,
    Event,
    FamilyTree,
    FoundationEntry,
    GenerationPlanned,
    Kinship,
    KinshipMeasured,
    MeasureStep,
    MergeStep,
    Model,
    ModelEvaluated,
    ModelFailed,
    ModelMerged,
    RungScored,
    RunStarted,
    RunStopped,
    Score,
    Step,
    Work,
    plan,
)

TASK = "task"
METRIC = "acc,none"


def make_config(
    foundations: tuple[str, ...],
    *,
    recipes: tuple[str, ...] = ("slerp",),
    racing: dict[str, Any] | None = None,
    **strategy: Any,
) -> Config:
    """Return a configuration with models that are never read, and one task, so that the average is its score."""
    return Config.model_validate(
        {
            "base_model": "org/base",
            "foundation_models": {name: f"org/{name}" for name in foundations},
            "strategy": strategy,
            "merge": {"recipe": list(recipes)},
            "evaluation": {"tasks": [{"task": TASK, "metric": METRIC}], "racing": racing},
        }
    )


def entry(name: str) -> FoundationEntry:
    return FoundationEntry(
        name=name, source=f"org/{name}", revision=None, path=f"/models/{name}", identity=f"id-{name}", bytes=1
    )


def started(config: Config) -> RunStarted:
    return RunStarted(
        run=config.name,
        config=config.model_dump(mode="json"),
        versions={"evolve": "0"},
        recipes=dict.fromkeys(config.merge.recipes, "text"),
        data={},
        base=entry("base"),
        foundations=tuple(entry(name) for name in config.foundation_models),
    )


def merged(model: str) -> ModelMerged:
    return ModelMerged(
        model=model,
        identity=f"id-{model}",
        checkpoint=f"models/{model}",
        recipe=f"recipes/{model}.yaml",
        bytes=2,
        seconds=1.5,
        tokenizer="union",
    )


def evaluated(model: str, value: float, stderr: float | None = 0.01) -> ModelEvaluated:
    score = Score(metric=METRIC, value=value, stderr=stderr)
    return ModelEvaluated(model=model, scores={TASK: score}, seconds=2.5, batch_size=4)


def rung_scored(
    model: str, rung: int, share: float, value: float, stderr: float = 0.01, *, influence: float = 0.0
) -> RungScored:
    answered = round(1000 * share)
    estimate = Estimate(metric=METRIC, value=value, stderr=stderr, answered=answered, items=1000, influence=influence)
    return RungScored(model=model, rung=rung, share=share, estimates={TASK: estimate}, seconds=0.5, batch_size=4)


def failed(model: str, step: str, reason: str = "it broke") -> ModelFailed:
    return ModelFailed.model_validate({"model": model, "step": step, "reason": reason, "attempts": 2})


def measured(a: str, b: str, pcc: float, cs: float | None = None, ed: float = 1.0) -> KinshipMeasured:
    return KinshipMeasured(a=a, b=b, kinship=Kinship(pcc=pcc, cs=pcc if cs is None else cs, ed=ed))


@dataclass
class World:
    """The results that the engines would give.

    Attributes:
        score: Average of a model (0..1).
        kinship: All three metrics of an unordered pair.
        failure: The step at which a child fails for good, or None; `rung <n>` is one of its race.
        estimate: The estimated average of a model after a rung, and its standard error; None: its score.
    """

    score: Callable[[Model], float]
    estimate: Callable[[Model, int], tuple[float, float]] | None = None
    kinship: Callable[[frozenset[str]], Kinship] = lambda _: Kinship(pcc=0.5, cs=0.5, ed=1.0)
    failure: Callable[[str], str | None] = lambda _: None

    def outcomes(self, tree: FamilyTree, step: Step) -> list[Event]:
        match step:
            case MergeStep(name):
                return [failed(name, "merge")] if self.failure(name) == "merge" else [merged(name)]
            case EvaluateStep(name, rung):
                if self.failure(name) in {"evaluate", f"rung {rung}"}:
                    return [failed(name, "evaluate")]
                if rung is not None:
                    return [self.rung(tree, tree.model(name), rung)]
                return [evaluated(name, self.score(tree.model(name)))]
            case MeasureStep(pairs):
                return [KinshipMeasured(a=a, b=b, kinship=self.kinship(frozenset((a, b)))) for a, b in pairs]

    def rung(self, tree: FamilyTree, model: Model, rung: int) -> RungScored:
        racing = tree.config.evaluation.racing
        assert racing is not None
        value, stderr = (self.score(model), 0.01) if self.estimate is None else self.estimate(model, rung)
        share = racing.rungs[rung - 1]
        return rung_scored(model.name, rung, share, value, stderr, influence=0.001 / share)


@dataclass
class Run:
    """A simulated run."""

    config: Config
    tree: FamilyTree = field(default_factory=FamilyTree)
    events: list[Event] = field(default_factory=list)

    def record(self, event: Event) -> None:
        self.tree.apply(event)
        self.events.append(event)

    @property
    def stop(self) -> RunStopped:
        assert self.tree.stop is not None
        return self.tree.stop

    @property
    def generations(self) -> list[GenerationPlanned]:
        return [event for event in self.events if isinstance(event, GenerationPlanned)]

    def journal(self) -> str:
        return "\n".join(event.model_dump_json() for event in self.events)


def first(_: int) -> int:
    return 0


def simulate(config: Config, world: World, choose: Callable[[int], int] = first, *, limit: int = 20_000) -> Run:
    """Run to the end, one outcome at a time; `choose` picks one of so many open steps."""
    run = Run(config)
    run.record(started(config))
    for _ in range(limit):
        decision = plan(run.tree)
        if isinstance(decision, Work):
            step = decision.steps[choose(len(decision.steps))]
            for event in world.outcomes(run.tree, step):
                run.record(event)
            continue
        run.record(decision)
        if isinstance(decision, RunStopped):
            return run
    raise AssertionError(f"the run does not stop within {limit} plans")


def pick(table: tuple[Any, ...], key: str) -> Any:
    """Return an entry of a table, always the same for the same key."""
    return table[zlib.crc32(key.encode()) % len(table)]


@dataclass(frozen=True)
class Tables:
    """A world of a few small tables, so that ties are frequent and examples shrink well.

    Attributes:
        growth: Added to the scores by each generation; above 0 a run lasts longer.
        noise: Differences of estimates from the scores.
        errors: Standard errors of the estimates.
    """

    scores: tuple[float, ...]
    pccs: tuple[float, ...]
    css: tuple[float, ...]
    eds: tuple[float, ...]
    failures: tuple[str | None, ...] = (None,)
    growth: float = 0.0
    noise: tuple[float, ...] = (0.0,)
    errors: tuple[float, ...] = (0.01,)

    def world(self) -> World:
        return World(
            score=self._score,
            estimate=self._estimate,
            kinship=self._kinship,
            failure=lambda name: pick(self.failures, f"failure of {name}") if name.startswith("model-") else None,
        )

    def _score(self, model: Model) -> float:
        return float(pick(self.scores, model.name)) + self.growth * model.generation

    def _estimate(self, model: Model, rung: int) -> tuple[float, float]:
        key = f"{model.name} at rung {rung}"
        return self._score(model) + pick(self.noise, key), pick(self.errors, f"error of {key}")

    def _kinship(self, names: frozenset[str]) -> Kinship:
        key = " and ".join(sorted(names))
        return Kinship(pcc=pick(self.pccs, key), cs=pick(self.css, "cs " + key), ed=pick(self.eds, "ed " + key))


if __name__ == "__main__":
    tables = Tables(
        scores=(0.1, 0.5, 0.25, 0.9, 0.7, 0.3, 0.65, 0.8, 0.45, 0.95),
        pccs=(0.1, -0.5, 0.9, 0.3, 0.6),
        css=(0.1,),
        eds=(1.0,),
        failures=(None, None, "merge", None, None, "evaluate"),
    )
    names = ("delta", "alpha", "echo", "bravo", "charlie")
    settings = make_config(names, recipes=("slerp", "linear"), top_k=4, stop_at_kinship=0.8, max_generations=4)
    print(simulate(settings, tables.world()).journal())
