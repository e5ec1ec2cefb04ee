"""Replays of racing on item values of finished runs.

    python benchmarks/racing.py runs/demo runs/greedy --items 1200 --replays 200

Each replay draws items of each task with replacement from a run whose models were all scored in full, and plays the
generations again by the code of a run: cells, samples, estimates, bounds and drops. What racing finds is compared with
the full scores on the same items.

- *answered*: share of the items that the children answer.
- *at least*: the same if the full scores were known: the children among the k best of their generation are scored in
  full, and all others are dropped after the first rung.
- *same top*: replays in which the k best models after each generation are those of the full scores.
- *variance*: the sampling variance of a child's average from 20% of the items, divided by that of simple random
  sampling of as many items: median and largest over the children.
- *covered*: share of the 95% intervals that contain the full average, at 20% of the items and at all rungs.

Scenarios: `real` as the runs are; `apart` draws items that only the best foundation answers three times as often, so
that the foundations' averages lie far apart; `disagreeing` does so with all items on which they disagree; `shuffled`
gives the estimators the answers of other items as those of the parents, so that they predict nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from evolve.analysis import ItemSample
from evolve.lineage import FamilyTree, Interval, interval, threshold
from evolve.run.folder import RunFolder

RUNGS = (0.05, 0.1, 0.2, 0.4, 0.7)
CONFIDENCE = 0.99
SCENARIOS = ("real", "apart", "disagreeing", "shuffled")
Values = dict[str, list[float]]  # by task


@dataclass
class Family:
    """A finished run: its models by generation, and the value of each item of each task."""

    name: str
    generations: list[list[tuple[str, tuple[str, ...]]]]
    k: int
    values: dict[str, Values]

    @classmethod
    def read(cls, path: Path) -> Family:
        folder = RunFolder.open(path)
        tree = folder.read_tree()
        scored = [model for model in tree.models if model.status == "evaluated"]
        count = max(model.generation for model in scored) + 1
        generations = [[(m.name, tuple(m.parents)) for m in scored if m.generation == g] for g in range(count)]
        values = {model.name: item_values(tree, folder.evaluation(model.name)) for model in scored}
        return cls(tree.config.name, generations, tree.config.strategy.top_k, values)


def item_values(tree: FamilyTree, folder: Path) -> Values:
    found: Values = {}
    for task in tree.config.evaluation.tasks:
        metric, chosen = task.metric.split(",")
        rows = {}
        for file in sorted((folder / task.task).glob("samples_*.jsonl")):
            for row in map(json.loads, file.read_text().splitlines()):
                if row["filter"] == chosen:
                    rows[row["doc_id"]] = float(row[metric])
        found[task.task] = [rows[item] for item in sorted(rows)]
    return found


@dataclass
class Figures:
    answered: int = 0
    items: int = 0
    needed: int = 0
    same: list[bool] = field(default_factory=list)
    errors: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    simple: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    covered: dict[float, list[bool]] = field(default_factory=lambda: defaultdict(list))


def resampled(family: Family, count: int, scenario: str, rng: random.Random) -> dict[str, Values]:
    drawn: dict[str, Values] = {name: {} for name in family.values}
    foundations = [name for name, _ in family.generations[0]]
    best = max(foundations, key=lambda name: average(family.values[name]))
    for task, column in family.values[best].items():
        others = [min(family.values[name][task][item] for name in foundations) for item in range(len(column))]
        most = [max(family.values[name][task][item] for name in foundations) for item in range(len(column))]
        wanted = {"apart": column, "disagreeing": most}.get(scenario, others)
        weights = [1 + 2 * (high - low) for high, low in zip(wanted, others, strict=True)]
        items = rng.choices(range(len(column)), weights, k=count)
        for name, values in family.values.items():
            drawn[name][task] = [values[task][item] for item in items]
    return drawn


class Race:
    """One child's estimates in one replay."""

    def __init__(
        self, name: str, own: Values, parents: list[dict[str, dict[int, float]]], shuffle: random.Random | None
    ) -> None:
        self.own = own
        self.samples = {}
        for task, values in own.items():
            known = [dict(parent[task]) for parent in parents]
            if shuffle is not None:
                others = list(range(len(values)))
                shuffle.shuffle(others)
                known = [{others[item]: value for item, value in parent.items()} for parent in known]
            self.samples[task] = ItemSample(range(len(values)), (known[0], known[1]), f"{name}/{task}")

    def estimate(self, share: float) -> tuple[float, float, float, int]:
        found = [self.samples[task].estimate(share, dict(enumerate(self.own[task]))) for task in self.own]
        count = len(found)
        stderr = math.sqrt(sum(e.stderr**2 for e in found)) / count
        influence = max(e.influence for e in found) / count
        return math.fsum(e.value for e in found) / count, stderr, influence, sum(e.answered for e in found)

    def known(self, share: float) -> dict[str, dict[int, float]]:
        return {task: {i: self.own[task][i] for i in s.chosen(share)} for task, s in self.samples.items()}


def average(values: Values) -> float:
    return math.fsum(statistics.fmean(column) for column in values.values()) / len(values)


def simple_variance(values: Values, answered: int) -> float:
    """Variance of the average from a simple random sample of each task, as large as the design's on average."""
    items = sum(map(len, values.values()))
    share = answered / items
    return (
        sum(statistics.pvariance(column) * (1 - share) / (share * len(column)) for column in values.values())
        / len(values) ** 2
    )


def replay(family: Family, count: int, scenario: str, number: int, figures: Figures) -> None:
    rng = random.Random(f"{family.name} {count} {scenario} {number}")
    drawn = resampled(family, count, scenario, rng)
    full = {name: average(values) for name, values in drawn.items()}
    known = {name: {t: dict(enumerate(v)) for t, v in drawn[name].items()} for name, _ in family.generations[0]}
    standing = {name: full[name] for name in known}
    born = list(standing)
    same = True
    for children in family.generations[1:]:
        races = {
            name: Race(
                f"{number}/{name}", drawn[name], [known[p] for p in parents], rng if scenario == "shuffled" else None
            )
            for name, parents in children
        }
        alive = dict(races)
        for rung, share in enumerate(RUNGS, start=1):
            intervals = {}
            for name, race in races.items():
                value, stderr, influence, answered = race.estimate(share)
                figures.covered[share].append(abs(value - full[name]) <= 1.96 * stderr)
                if share == 0.2:
                    figures.errors[name].append((value - full[name]) ** 2)
                    figures.simple[name].append(simple_variance(drawn[name], answered))
                if name in alive:
                    intervals[name] = interval(
                        value, stderr, influence, rungs=RUNGS, rung=rung, children=len(races), confidence=CONFIDENCE
                    )
            least = threshold([*(Interval(v, v) for v in standing.values()), *intervals.values()], family.k)
            for name, found in intervals.items():
                if least is not None and found.high < least:
                    known[name] = alive.pop(name).known(share)
                    figures.answered += sum(map(len, known[name].values()))
        for name, race in alive.items():
            known[name], standing[name] = race.known(1), full[name]
            figures.answered += sum(map(len, race.own.values()))
        figures.items += sum(len(column) for race in races.values() for column in race.own.values())
        born += races
        best = sorted(born, key=lambda name: -full[name])[: family.k]
        kept = sorted(standing, key=lambda name: -standing[name])[: family.k]
        figures.needed += sum(
            sum(map(len, race.known(1 if name in best else RUNGS[0]).values())) for name, race in races.items()
        )
        same = same and {full[n] for n in best} == {full[n] for n in kept}
    figures.same.append(same)


def report(family: Family, count: int, scenario: str, figures: Figures) -> str:
    ratios = [
        statistics.fmean(figures.errors[name]) / simple
        for name in figures.errors
        if (simple := statistics.fmean(figures.simple[name])) > 0
    ]
    every = [hit for hits in figures.covered.values() for hit in hits]
    foundations = len(family.generations[0]) * figures.items / sum(map(len, family.generations[1:]))
    return (
        f"{family.name:8} {scenario:8} {count:5}  answered {figures.answered / figures.items:.2f} "
        f"(at least {figures.needed / figures.items:.2f}; "
        f"with foundations {(figures.answered + foundations) / (figures.items + foundations):.2f})  "
        f"same top {statistics.fmean(figures.same):.3f}  variance {statistics.median(ratios):.2f} "
        f"(most {max(ratios):.2f})  covered {statistics.fmean(figures.covered[0.2]):.3f}, "
        f"all rungs {statistics.fmean(every):.3f}  "
        + " ".join(f"{share:g}:{statistics.fmean(hits):.3f}" for share, hits in figures.covered.items())
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--items", type=int, nargs="+", default=[150, 400, 1200], help="items of each task")
    parser.add_argument("--replays", type=int, default=200)
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    options = parser.parse_args()
    for family in map(Family.read, options.runs):
        for scenario in options.scenarios:
            for count in options.items:
                figures = Figures()
                for number in range(options.replays):
                    replay(family, count, scenario, number, figures)
                print(report(family, count, scenario, figures), flush=True)


if __name__ == "__main__":
    main()
