"""Views tell estimates from full scores, and dropped children from failed ones."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from evolve.lineage import FamilyTree
from evolve.run.journal import read_journal, tree_of
from evolve.views import (
    compare_view,
    describe_event,
    model_view,
    resume_line,
    status_data,
    status_view,
    summary_view,
    tree_view,
)

GOLDEN = Path(__file__).parents[1] / "run" / "golden" / "journal-2-racing.jsonl"
ENTRIES = read_journal(GOLDEN)


def printed(view: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=150, color_system=None)
    console.print(view, crop=False)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def finished() -> FamilyTree:
    return tree_of(ENTRIES, GOLDEN)


@pytest.fixture(scope="module")
def racing() -> FamilyTree:
    """The tree when a child was just dropped and the others go on."""
    last = next(number for number, entry in enumerate(ENTRIES) if entry.event.type == "model_dropped")
    return tree_of(ENTRIES[: last + 1], GOLDEN)


def test_the_tree_marks_dropped_children_and_their_estimates(finished: FamilyTree) -> None:
    text = printed(tree_view(finished))
    assert "▽ dropped" in text
    assert "✗" not in text
    (line,) = [line for line in text.splitlines() if "model-2-2" in line]
    assert "▽" in line
    assert "(30%)" in line
    (line,) = [line for line in text.splitlines() if "● " in line and "model-2-1" in line]
    assert "%" not in line


def test_a_dropped_child_is_shown_with_its_bounds(finished: FamilyTree) -> None:
    text = printed(model_view(finished, "model-2-2"))
    assert "dropped after rung 2" in text
    assert "rung 2, 30% of the items: average from " in text
    assert "of 256" in text
    assert "The errors are those of the sampling" in text


def test_the_status_tells_racing_from_dropped(racing: FamilyTree) -> None:
    dropped = [model.name for model in racing.models if model.status == "dropped"]
    assert len(dropped) == 1
    data = status_data(racing)
    assert data["models"]["dropped"] == dropped
    assert len(data["models"]["racing"]) == 3
    assert not data["models"]["failed"]
    text = printed(status_view(racing, folder="runs/x", running=None))
    assert "3 racing, 1 dropped" in text
    assert "(10%)" in text
    assert "3 racing, 1 dropped, next: drop model-2-exp" in resume_line(racing)


def test_rungs_and_drops_are_described_in_one_line(finished: FamilyTree, racing: FamilyTree) -> None:
    rung = next(
        entry.event for entry in ENTRIES if entry.event.type == "rung_scored" and entry.event.model == "model-2-exp"
    )
    words = describe_event(rung, racing)
    assert words.startswith("model-2-exp: estimate ")
    assert " (10%) (alpha " in words
    assert words.endswith("items in 0.5 s)")
    drop = racing.history[-1].event
    assert describe_event(drop, racing).startswith(f"{drop.model}: dropped after rung 1: at most ")


def test_a_comparison_counts_dropped_children(finished: FamilyTree) -> None:
    assert "7 scored, 3 dropped" in printed(compare_view({"a": finished}))


@pytest.fixture(scope="module")
def estimated() -> FamilyTree:
    """The tree after the only rung of generation 1, which is below the whole."""
    tree = FamilyTree()
    for entry in ENTRIES:
        event = entry.event
        if event.type == "run_started":
            evaluation = {**event.config["evaluation"], "racing": {"rungs": [0.1]}}
            event = event.model_copy(update={"config": {**event.config, "evaluation": evaluation}})
        if event.type in {"generation_planned", "model_dropped"} and tree.generation == 1:
            break
        if event.type != "rung_scored" or event.rung == 1:
            tree.apply(event)
        if all(model.status == "estimated" for model in tree.children_of(1)) and tree.generation == 1:
            break
    return tree


def test_every_estimate_among_the_best_is_marked(estimated: FamilyTree) -> None:
    best = estimated.ranking[0]
    assert best.status == "estimated"
    mark = f"{100 * (best.average or 0):.2f} (10%)"
    lines = printed(status_view(estimated, folder="runs/x", running=None)).splitlines()
    (line,) = [line for line in lines if line.startswith("best 3")]
    assert f"{best.name} {mark}" in line
    assert f"{mark}  gain" in printed(model_view(estimated, best.parents[0]))
    assert f"{mark} {best.name}" in printed(compare_view({"a": estimated}))


def test_an_estimate_wins_no_comparison(estimated: FamilyTree, finished: FamilyTree) -> None:
    assert "best average of all runs" in printed(compare_view({"a": finished, "b": finished}))
    assert "best average of all runs" not in printed(compare_view({"a": estimated, "b": finished}))


def test_the_summary_of_a_failed_run_says_that_its_best_is_an_estimate(estimated: FamilyTree) -> None:
    text = printed(summary_view(estimated, folder="runs/x"))
    assert "It is an estimate: the run has not scored the best models in full." in text
    assert "a task has none" not in text
