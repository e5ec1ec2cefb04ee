"""The race of a child on a group of tasks, scored by lm-eval."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fakes import FAKE
from family_trees import fold

from evolve.config import Config
from evolve.engines.protocols import TaskSpec, task_folder
from evolve.lineage import FoundationEntry, GenerationPlanned, ModelEvaluated, PlannedMerge, RunStarted
from evolve.run.folder import RunFolder
from evolve.run.steps.base import RunContext
from evolve.run.steps.race import Race, find_race

from . import _world

MEMBERS = {"few": 12, "many": 40}
TASK = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}/{name}.jsonl
output_type: multiple_choice
test_split: test
doc_to_text: '{{{{question}}}}'
doc_to_choice: ['1', '2']
doc_to_target: '{{{{question | length % 2}}}}'
metric_list:
- metric: acc
  aggregation: mean
  higher_is_better: true
"""
GROUP = "group: {name}\ntask: [few, many]\naggregate_metric_list:\n- metric: acc\n  weight_by_size: {by_size}\n"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two tasks of different sizes, the group `pooled` over all items, and the group `mean` of their means."""
    folder = tmp_path_factory.mktemp("tasks")
    for seed, (name, count) in enumerate(MEMBERS.items()):
        _world.write_lines(folder / f"{name}.jsonl", _world.gsm8k_items(count, seed))
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, data=folder))
    for name, by_size in (("pooled", "true"), ("mean", "false")):
        (folder / f"{name}.yaml").write_text(GROUP.format(name=name, by_size=by_size))
    return folder


def _race(root: Path, group: str, foundations: dict[str, Path], tasks: Path, equal: tuple[str, ...]) -> list[Race]:
    """Score the foundations on a group, and return both rungs of the race of their child."""
    folder = RunFolder(root)
    config = Config.model_validate(
        {
            "base_model": "org/base",
            "foundation_models": {name: f"org/{name}" for name in foundations},
            "evaluation": {"tasks": [{"task": group, "metric": "acc,none"}], "racing": {"rungs": [0.5, 1]}},
        }
    )
    entries = [
        FoundationEntry(name=name, source="org/x", revision=None, path="/x", identity=name, bytes=1)
        for name in ("base", *foundations)
    ]
    start = RunStarted(
        run="run",
        config=config.model_dump(mode="json"),
        versions={},
        recipes=dict.fromkeys(config.merge.recipes, "text"),
        data={},
        base=entries[0],
        foundations=tuple(entries[1:]),
        equal_weights=equal,
    )
    spec, events = TaskSpec(group, "acc,none"), [start]
    for name, checkpoint in foundations.items():
        result = _world.score(checkpoint, (spec,), folder.evaluation(name), task_dirs=(tasks,))
        scores = {task: {"metric": "acc,none", "value": s.value, "stderr": None} for task, s in result.scores.items()}
        events.append(ModelEvaluated.model_validate({"model": name, "scores": scores, "seconds": 1, "batch_size": 4}))
    child = PlannedMerge(
        name="model-1-1", parents=tuple(foundations), kind="merge", recipe=config.merge.recipes[0], decision=""
    )
    events.append(GenerationPlanned(generation=1, top=tuple(foundations), merges=(child,)))
    context = RunContext(folder, fold(events), FAKE)
    model = context.tree.model("model-1-1")
    return [race for rung in (1, 2) if (race := find_race(context, model, rung)) is not None]


@pytest.mark.parametrize("group", ["pooled", "mean"])
def test_a_race_estimates_the_score_of_a_group(
    model: Path, other_model: Path, tasks: Path, tmp_path: Path, group: str
) -> None:
    facts = _world.inspect(TaskSpec(group, "acc,none"), task_dirs=(tasks,))[group]
    equal = () if facts.weighted_by_size else (group,)
    assert equal == (("mean",) if group == "mean" else ())
    part, whole = _race(tmp_path / "run", group, {"A": model, "B": other_model}, tasks, equal)

    child = _world.make_model(tmp_path / "child", seed=2)
    spec = TaskSpec(group, "acc,none")
    full = _world.score(child, (spec,), tmp_path / "full", task_dirs=(tasks,)).scores[group].value
    estimates = []
    for race in (part, whole):
        output = tmp_path / f"rung-{race.rung}"
        asked = replace(spec, items=race.items(group))
        _world.score(child, (asked,), output, task_dirs=(tasks,))
        estimates.append(race.estimate(group, "acc,none", output / task_folder(group)))

    assert {name: len(ids) for name, ids in whole.items(group).items()} == MEMBERS
    assert 0 < estimates[0].answered < estimates[0].items == sum(MEMBERS.values())
    assert abs(estimates[0].value - full) <= 4 * estimates[0].stderr
    assert estimates[0].stderr > 0 < estimates[0].influence
    assert estimates[1].value == pytest.approx(full, abs=1e-12)
    assert (estimates[1].stderr, estimates[1].influence) == (0.0, 0.0)


def test_a_race_with_the_weights_of_another_kind_of_group_is_refused(
    model: Path, other_model: Path, tasks: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert not _race(tmp_path / "run", "mean", {"A": model, "B": other_model}, tasks, ())
    assert "the score of mean is not the mean of the values of its items" in caplog.text
