"""Sessions: observers, the progress file and the times of events."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from executors import InlineExecutor
from fakes import FAKE, write_family

from evolve.config import load_config
from evolve.lineage import Event, FamilyTree
from evolve.run.folder import RunFolder
from evolve.run.interrupts import Interrupted
from evolve.run.observer import Silent, StepProgress, read_progress
from evolve.run.session import Session


class Failing(Silent):
    """An observer that raises an error at each event, and at reports of one call."""

    def __init__(self, fails_at: str) -> None:
        self._fails_at = fails_at

    def recorded(self, event: Event, tree: FamilyTree, at: str) -> None:
        raise LookupError("a bug of an observer")

    def working(self, call_id: str, words: str, done: int, total: int) -> None:
        if call_id == self._fails_at:
            raise LookupError("a bug of an observer")


class Watching(Silent):
    """An observer that reads the progress file and collects the times of events."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self.seen: list[StepProgress | None] = []
        self.times: list[str] = []

    def recorded(self, event: Event, tree: FamilyTree, at: str) -> None:
        self.seen.append(read_progress(self._folder.progress))
        self.times.append(at)
        assert tree.history[-1].at == at


@pytest.mark.parametrize("fails_at", ["inputs", "check tasks", "evaluate A", "none"])
def test_an_observer_that_fails_does_not_end_the_run(
    fails_at: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config(write_family(tmp_path / "family"))
    finished = Session(FAKE, Failing(fails_at), executors=InlineExecutor).run(config, tmp_path / "run")
    assert finished.stop.reason == "converged"
    assert caplog.text.count("Failing failed and is dropped") == 1


def test_the_log_has_the_reason_why_a_session_ended(tmp_path: Path) -> None:
    config = load_config(write_family(tmp_path / "family"))

    class Interrupting(Silent):
        def recorded(self, event: Event, tree: FamilyTree, at: str) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        Session(FAKE, Interrupting(), executors=InlineExecutor).run(config, tmp_path / "run")
    assert "the session ended: interrupted by SIGINT" in (tmp_path / "run" / "run.log").read_text().splitlines()[-1]


def test_observers_get_the_time_of_each_event_and_see_the_current_step(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    watching = Watching(folder)
    config = load_config(write_family(tmp_path / "family"))
    Session(FAKE, watching, executors=InlineExecutor).run(config, folder.root)
    lines = [json.loads(line) for line in folder.journal.read_text().splitlines()]
    assert watching.times == [line["at"] for line in lines]
    assert {seen.step for seen in watching.seen if seen is not None} >= {"evaluate A", "merge model-1-1", "kinship"}
    assert not folder.progress.exists()


@pytest.mark.parametrize("status", ["planned", "merged", "evaluated"])
def test_the_family_tree_has_the_times_of_each_model(status: str, tmp_path: Path) -> None:
    config = load_config(write_family(tmp_path / "family"))
    Session(FAKE, Silent(), executors=InlineExecutor).run(config, tmp_path / "run")
    nodes = json.loads((tmp_path / "run" / "family_tree.json").read_text())["nodes"]
    children = [node for node in nodes if node["kind"] != "foundation"]
    assert all(node["times"][status].startswith("20") for node in children)
