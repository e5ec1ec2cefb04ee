"""A repair that does not last is tried `attempts` times; then its child fails, or the run stops and can be resumed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from executors import InlineExecutor
from fakes import FAKE, write_family

from evolve.config import load_config
from evolve.errors import RunError
from evolve.lineage import CheckpointRemade, Event, FamilyTree, GenerationPlanned, ModelMerged
from evolve.run.observer import Silent
from evolve.run.session import Session
from runs import events


class Destroyer(Silent):
    """An observer that deletes a checkpoint when it was merged, and again when it was merged again.

    Args:
        run: The run folder.
        name: The model.
        after: The kind of event after which the checkpoint is deleted for the first time.
        times: How often the checkpoint is deleted.
    """

    def __init__(self, run: Path, name: str, after: type[Event], times: int) -> None:
        self._checkpoint, self._name, self._after, self._times = run / "models" / name, name, after, times

    def recorded(self, event: Event, tree: FamilyTree, at: str) -> None:
        is_after = isinstance(event, self._after) and getattr(event, "model", self._name) == self._name
        is_again = isinstance(event, CheckpointRemade) and event.model == self._name
        if self._times and (is_after or is_again) and self._checkpoint.exists():
            self._times -= 1
            shutil.rmtree(self._checkpoint)


def _session(observer: Silent) -> Session:
    return Session(FAKE, observer, executors=InlineExecutor)


@pytest.fixture
def family(tmp_path: Path) -> Path:
    return write_family(tmp_path / "family")


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_a_child_without_scores_fails(*, attempts: int, family: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = load_config(family, [f"attempts={attempts}"])
    _session(Destroyer(run, "model-1-1", ModelMerged, 100)).run(config, run)
    (failed,) = events(run, "model_failed")
    times = "once" if attempts == 1 else f"{attempts} times"
    assert (failed["model"], failed["step"], failed["attempts"]) == ("model-1-1", "merge", attempts)
    assert f"was merged again {times} and is damaged again" in failed["reason"]
    assert len(events(run, "checkpoint_remade")) == attempts


def test_a_parent_stops_the_run_which_can_be_resumed(family: Path, tmp_path: Path) -> None:
    run, config = tmp_path / "run", load_config(family)
    best = _best_child(tmp_path / "other", family)
    for number in (1, 2):
        with pytest.raises(RunError, match=f"models/{best}: .* merged again 2 times .*`evolve resume {run}`"):
            _session(Destroyer(run, best, (GenerationPlanned, CheckpointRemade)[number - 1], 100)).run(config, run)
        assert len(events(run, "checkpoint_remade")) == 2 * number
    assert not events(run, "model_failed")
    _session(Silent()).resume(run)
    assert events(run, "run_stopped")


def test_repairs_that_last_until_they_are_used_are_not_added_up(family: Path, tmp_path: Path) -> None:
    """One attempt is enough for each use."""
    run = tmp_path / "run"
    best = _best_child(tmp_path / "other", family)

    class Often(Silent):
        def recorded(self, event: Event, tree: FamilyTree, at: str) -> None:
            if isinstance(event, ModelMerged) and best in tree.model(event.model).parents:
                shutil.rmtree(run / "models" / best)

    _session(Often()).run(load_config(family, ["attempts=1"]), run)
    assert not events(run, "model_failed")
    assert len([event for event in events(run, "checkpoint_remade") if event["model"] == best]) >= 2


def _best_child(run: Path, family: Path) -> str:
    """Return the parent of most children of generation 2 that is a child itself, found by an undisturbed run."""
    _session(Silent()).run(load_config(family), run)
    parents = [
        name
        for event in events(run, "generation_planned")[1:]
        for merge in event["merges"]
        for name in merge["parents"]
    ]
    return max((name for name in parents if name.startswith("model-1-")), key=parents.count)
