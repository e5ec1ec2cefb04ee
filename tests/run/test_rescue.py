"""A journal that someone deletes, replaces or changes during the run: the run stops, and its events are kept."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from drive import Drivers

from evolve.errors import RunError, RunFolderError
from evolve.lineage import ModelFailed
from evolve.run.folder import RunFolder
from evolve.run.journal import Journal, read_journal
from runs import Reference, contents

CHANGES = {
    "deleted": "rm {run}/journal.jsonl",
    "replaced": "cp {run}/journal.jsonl {run}/copy; mv {run}/copy {run}/journal.jsonl",
    "replaced by a link": "mv {run}/journal.jsonl {run}/../copy; ln -s {run}/../copy {run}/journal.jsonl",
    "cut": "truncate -s 100 {run}/journal.jsonl",
    "emptied": "truncate -s 0 {run}/journal.jsonl",
    "longer": "echo more >> {run}/journal.jsonl",
}


def _during(tmp_path: Path, script: str, step: str = "evaluate:model-1-2") -> str:
    return f"{step}:run={script.format(run=tmp_path / 'runs' / 'run')}:1:{tmp_path}/count"


@pytest.mark.parametrize("change", CHANGES)
def test_the_events_are_kept_and_the_run_goes_on_as_the_message_says(
    change: str, tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run, tally = tmp_path / "runs" / "run", tmp_path / "tally"
    ended = drivers(run, config, EVOLVE_FAKE=_during(tmp_path, CHANGES[change]), EVOLVE_FAKE_TALLY=tally)
    assert ended.code == 1, ended.message
    assert f"{run}/journal.jsonl: was " in ended.message
    command, resume = ended.message.split("`")[1::2]
    assert command == f"mv {run}/journal.rescued.jsonl {run}/journal.jsonl"
    assert resume == f"evolve resume {run}"
    last = read_journal(run / "journal.rescued.jsonl")[-1].event
    assert (last.type, getattr(last, "model", None)) == ("model_evaluated", "model-1-2")
    subprocess.run(shlex.split(command), check=True)
    assert drivers(run, EVOLVE_FAKE_TALLY=tally).code == 0
    (tmp_path / "runs" / "copy").unlink(missing_ok=True)
    assert {work for work in tally.read_text().splitlines() if tally.read_text().count(work) > 1} == set()
    reference.check(run)


def test_a_lost_journal_is_named_when_the_run_is_opened(tmp_path: Path, drivers: Drivers, config: Path) -> None:
    run = tmp_path / "runs" / "run"
    drivers(run, config, EVOLVE_FAKE=_during(tmp_path, CHANGES["deleted"]))
    with pytest.raises(RunFolderError, match=rf"its journal is missing.*`mv {run}/journal\.rescued\.jsonl {run}/jour"):
        RunFolder.open(run)


@pytest.mark.parametrize("script", ["rm -r {run}", "mv {run} {run}-moved"])
def test_a_run_folder_that_is_gone_ends_the_run_with_a_message(
    script: str, tmp_path: Path, drivers: Drivers, config: Path
) -> None:
    ended = drivers(tmp_path / "runs" / "run", config, EVOLVE_FAKE=_during(tmp_path, script, "measure:kinship"))
    assert ended.code == 1, ended.message
    assert "journal.jsonl: was deleted or moved during the run, with its folder; put the folder back" in ended.message


def _event(number: int) -> ModelFailed:
    return ModelFailed(model=f"m{number}", step="merge", reason="", attempts=number)


def test_a_rescue_never_replaces_another_file(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    (tmp_path / "foreign").write_text("precious")
    (tmp_path / "journal.rescued.jsonl").write_text("an earlier rescue")
    (tmp_path / "journal.rescued-2.jsonl").symlink_to(tmp_path / "foreign")
    with Journal(path) as journal:
        journal.append(_event(1))
        journal.append(_event(2))
        path.unlink()
        before = contents(tmp_path)
        with pytest.raises(RunError, match=r"all 3 events are in journal\.rescued-3\.jsonl"):
            journal.append(_event(3))
    after = contents(tmp_path)
    assert after.pop("journal.rescued-3.jsonl")
    assert after == before
    assert [entry.event for entry in read_journal(tmp_path / "journal.rescued-3.jsonl")] == list(map(_event, (1, 2, 3)))


def test_a_journal_that_is_untouched_is_written(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.append(_event(1))
        (tmp_path / "journal.jsonl").touch()
        journal.append(_event(2))
    assert [path.name for path in tmp_path.iterdir()] == ["journal.jsonl"]
