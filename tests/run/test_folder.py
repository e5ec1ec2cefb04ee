"""The run folder: usable and refused paths."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evolve.errors import RunFolderError
from evolve.run.folder import RunFolder


def test_a_new_folder_is_not_made_before_it_is_needed(tmp_path: Path) -> None:
    folder = RunFolder.prepare(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    folder.create()
    folder.make_folders()
    assert sorted(path.name for path in folder.root.iterdir()) == ["evals", "models", "recipes", "staging"]


@pytest.mark.parametrize(
    "name", [".lock", "driver.json", "progress.json", ".driver.json.77.tmp", ".progress.json.77.tmp", "journal.jsonl"]
)
def test_files_of_a_killed_start_are_accepted(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    RunFolder.prepare(tmp_path)


@pytest.mark.parametrize("name", ["thesis.tex", "models", ".git"])
def test_a_folder_with_other_files_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(RunFolderError, match=f"is not empty and is not a run .*{name}.*--run-dir"):
        RunFolder.prepare(tmp_path)


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="is a file"):
        RunFolder.prepare(tmp_path / "file")
    with pytest.raises(RunFolderError, match="not writable"):
        RunFolder.prepare(tmp_path / "file" / "below")
    with pytest.raises(RunFolderError, match="is a file, not a run folder"):
        RunFolder.open(tmp_path / "file")


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(RunFolderError, match=r"not writable.*--run-dir"):
        RunFolder.prepare(tmp_path / "new")
    with pytest.raises(RunFolderError, match=r"File name too long.*--run-dir"):
        RunFolder.prepare(tmp_path / ("x" * 300))
    with pytest.raises(RunFolderError, match="cannot be made"):
        RunFolder(tmp_path / ("x" * 300)).create()


def test_opening_a_folder_that_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="there is no such folder"):
        RunFolder.open(tmp_path / "none")
    with pytest.raises(RunFolderError, match=r"is not a run \(journal\.jsonl is missing\)"):
        RunFolder.open(tmp_path)
    (tmp_path / "journal.jsonl").write_text('{"seq"')
    assert not RunFolder.open(tmp_path).has_begun()
    with pytest.raises(RunFolderError, match="has not begun yet"):
        RunFolder.open(tmp_path).read_tree()
