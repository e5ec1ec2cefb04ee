"""A run folder from someone else: no journal makes a command write outside the run, hang, or show a traceback."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from evolve.run.journal import read_journal
from runs import forge

pytestmark = pytest.mark.usefixtures("no_work")

READERS = {
    "tree": ("tree", "{run}"),
    "show": ("show", "{run}", "A"),
    "status": ("status", "{run}"),
    "status --json": ("status", "{run}", "--json"),
    "compare": ("compare", "{run}"),
    "resume": ("resume", "{run}"),
}
EACH_READER = pytest.mark.parametrize("reader", READERS)


def _arguments(reader: str, run: Path) -> list[str]:
    return [part.format(run=run) for part in READERS[reader]]


def _rename(old: str, new: str):
    def change(event: dict[str, Any]) -> None:
        changed = json.loads(json.dumps(event).replace(json.dumps(old), json.dumps(new)))
        event.clear()
        event.update(changed)

    return change


def _set(kind: str, *path: Any, value: Any):
    def change(event: dict[str, Any]) -> None:
        if event["type"] != kind:
            return
        inner: Any = event
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return change


NAMES = ("../../../victim", "/etc", "..", "", ".hidden", "model\x1b[2J", "model\nmodel", "model\0", "model-\ud800")
DEEP: Any = 1
for _ in range(150):
    DEEP = [DEEP]

FORGED = {
    **{f"a child named {name!r}": (_rename("model-1-1", name), "line ") for name in NAMES},
    **{f"a foundation named {name!r}": (_rename("A", name), "line 1 ") for name in NAMES},
    "a foundation named like a child": (_rename("A", "model-1-7"), "line 1 contradicts"),
    "a child named like a foundation": (_rename("model-1-1", "D"), "child has a name of the form"),
    "a child of another generation": (_rename("model-1-1", "model-9-1"), "no name of a child of generation 1"),
    "a child that is its own parent": (
        _set("generation_planned", "merges", 0, "parents", value=["model-1-1", "A"]),
        "there is no model model-1-1",
    ),
    "a checkpoint in /etc": (_set("model_merged", "checkpoint", value="/etc"), "instead of models/"),
    "a checkpoint above": (_set("model_merged", "checkpoint", value="../../victim"), "instead of models/"),
    "a checkpoint that is the run": (_set("model_merged", "checkpoint", value="."), "instead of models/"),
    "a recipe above": (_set("model_merged", "recipe", value="../../victim/x.yaml"), "instead of recipes/"),
    "an unknown recipe": (_set("generation_planned", "merges", 0, "recipe", value="../x"), "has the recipe ../x"),
    "an unknown recipe of many lines": (
        _set("generation_planned", "merges", 0, "recipe", value="x\n" * 10**6),
        "has the recipe",
    ),
    "a foundation with a long name": (_set("run_started", "foundations", 0, "name", value="/" * 10**6), "line 1"),
    "no text of a recipe": (_set("run_started", "recipes", value={}), "no text of a recipe"),
    "a run named as a path": (_set("run_started", "config", "name", value="../x"), "a name has letters"),
    "a task named as a path": (_rename("alpha", "../../../victim"), "a task has a name"),
    "a task named as the parent": (_rename("alpha", ".."), "a task has a name"),
    "an unknown key of the configuration": (_set("run_started", "config", "x", value=1), "line 1 contradicts"),
    "no configuration": (_set("run_started", "config", value={}), "line 1 contradicts"),
    "a deep configuration": (_set("run_started", "config", "x", value=DEEP), "line 1 is damaged"),
    "a deep setting": (_set("run_started", "differing_settings", value={"x": {"A": DEEP}}), "line 1 is damaged"),
    "other foundations": (_set("run_started", "config", "foundation_models", value={"X": "x", "Y": "y"}), "line 1"),
    "a number of 400 digits": (_set("model_merged", "bytes", value=10**400), "is damaged"),
    "a time of 400 digits": (_set("model_merged", "seconds", value=10**400), "is damaged"),
    "a generation of 200 digits": (_set("generation_planned", "generation", value=10**200), "is damaged"),
    "a size of 200 digits": (_set("run_started", "base", "bytes", value=10**200), "line 1 is damaged"),
    "negative seconds": (_set("model_evaluated", "seconds", value=-1.0), "seconds = -1.0"),
    "a score that is not finite": (_set("model_evaluated", "scores", "alpha", "value", value=float("inf")), "damaged"),
    "a score that overflows": (_set("model_evaluated", "scores", "alpha", "value", value=1e300), "damaged"),
    "a kinship out of its range": (_set("kinship_measured", "kinship", "pcc", value=7.5), "kinship.pcc = 7.5"),
    "scores of another task": (_set("model_evaluated", "scores", value={"x": {"metric": "m", "value": 1.0,
                                                                              "stderr": None}}), "has scores of x"),
}  # fmt: skip


@pytest.mark.parametrize("reader", ["status --json", "resume"])
@pytest.mark.parametrize("name", FORGED)
def test_a_forged_journal_is_refused(refused, run_copy, tmp_path, reader, name):
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "precious.txt").touch()
    change, words = FORGED[name]
    forge(run_copy, change)

    refused(*_arguments(reader, run_copy), words=(f"{run_copy}/journal.jsonl: line ", words, "restore the journal"))


@pytest.mark.parametrize("reader", ["status", "resume"])
@pytest.mark.parametrize("at", ["yesterday", "", "0001-01-01T00:00:00+14:00", "2026-01-01T00:00:00+99:00"])
def test_a_time_that_is_no_time_is_refused(refused, run_copy, monkeypatch, reader, at):
    lines = (run_copy / "journal.jsonl").read_text()
    monkeypatch.setattr("runs.json.loads", lambda line: json.JSONDecoder().decode(line.decode()) | {"at": at})
    forge(run_copy, lambda event: None)
    monkeypatch.undo()
    assert (run_copy / "journal.jsonl").read_text() != lines

    refused(*_arguments(reader, run_copy), words=("journal.jsonl: line 1 is damaged", "restore the journal"))


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _zero(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _sparse(path: Path) -> None:
    os.truncate(path, 300 << 20)


FILES = {
    "no text": (lambda path: path.write_bytes(b"\xff\xfe\n" * 9), "line 1 is damaged"),
    "no text in a line": (lambda path: path.write_bytes(path.read_bytes().replace(b'"', b"\xff", 1)), "line 1"),
    "brackets": (lambda path: path.write_bytes(b"[" * 200_000 + b"\n"), "line 1 is damaged"),
    "a named pipe": (_fifo, "is a named pipe, not a regular file"),
    "an endless device": (_zero, "is a device, not a regular file"),
    "a folder": (_folder, "is a folder, not a regular file"),
    "too long": (_sparse, "is longer than 256 MB"),
    "a line that is too long": (lambda path: path.write_bytes(b'"' + b"x" * (17 << 20) + b'"\n'), "line 1 is damaged"),
}


@EACH_READER
@pytest.mark.parametrize("name", FILES)
def test_a_journal_that_is_no_journal_is_refused(command, run_copy, reader, name):
    damage, words = FILES[name]
    damage(run_copy / "journal.jsonl")

    answer = command(*_arguments(reader, run_copy))

    assert (answer.code, answer.out) == (2, "")
    assert len(answer.err.splitlines()) == 1
    assert answer.err.startswith(f"evolve: {run_copy}/journal.jsonl: ")
    assert words in answer.err
    assert "restore the journal" in answer.err


@EACH_READER
@pytest.mark.parametrize("name", ["driver.json", "progress.json", ".lock"])
def test_a_named_pipe_in_the_run_folder_blocks_no_command(command, run_copy, reader, name):
    (run_copy / name).unlink(missing_ok=True)
    os.mkfifo(run_copy / name)

    assert command(*_arguments(reader, run_copy)).code == 0


# ------------------------------------------------------------------------------------------------------------- paths


@EACH_READER
def test_a_run_folder_whose_path_is_not_utf8(refused, run_copy, tmp_path, reader):
    run = tmp_path / os.fsdecode(b"run-\xff")
    shutil.move(run_copy, run)

    refused(*_arguments(reader, run), words=("its path is not UTF-8", "rename the folder"))


def test_a_new_run_whose_path_is_not_utf8(refused, fake_family, tmp_path):
    refused(
        *("run", fake_family, "--run-dir", tmp_path / os.fsdecode(b"run-\xff")),
        words=("its path is not UTF-8", "give another --run-dir"),
    )


@EACH_READER
def test_a_working_directory_that_was_deleted(command, tmp_path, monkeypatch, reader):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    answer = command(*_arguments(reader, Path("run")))

    assert answer.code == 2
    said = "the working directory cannot be used (No such file or directory); change to another one"
    assert answer.err == f"evolve: {said}\n"


@EACH_READER
def test_a_run_folder_that_cannot_be_read(command, run_copy, monkeypatch, reader):
    stat = Path.stat

    def refuse(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path.name == "journal.jsonl" and follow_symlinks:  # root, who may run the tests, can read everything
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", refuse)

    answer = command(*_arguments(reader, run_copy))

    assert answer.code == 2
    assert answer.err == f"evolve: {run_copy}: cannot be read (Permission denied); check its permissions\n"


def test_a_name_that_is_too_long(refused):
    refused("status", "r" * 5000, words=("File name too long",))


# -------------------------------------------------------------------------------------------------------------- text

ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202ereversed\u2028\x7f\r"
TEXTS = {
    "the reason of a stop": _set("run_stopped", "detail", value=ESCAPES),
    "the decision of a merge": _set("generation_planned", "merges", 0, "decision", value=ESCAPES),
    "the source of a foundation": _set("run_started", "foundations", 0, "source", value=ESCAPES),
    "the path of a foundation": _set("run_started", "foundations", 0, "path", value=f"/{ESCAPES}"),
    "the revision of a foundation": _set("run_started", "foundations", 0, "revision", value=ESCAPES),
    "the identity of a foundation": _set("run_started", "foundations", 0, "identity", value=ESCAPES),
    "a setting": _set("run_started", "differing_settings", value={ESCAPES: {"A": ESCAPES, ESCAPES: 1}}),
    "a tensor": _set("kinship_measured", "left_out", value=[{"tensor": ESCAPES, "rows": 1, "share": 0.5}]),
    "a metric": _set("model_evaluated", "scores", "alpha", "metric", value=ESCAPES),
    "the recipe": _rename("slerp", f"/{ESCAPES}"),
    "a cached task": _set("model_evaluated", "reused_tasks", value=[ESCAPES]),
}
HIDDEN = set("\x1b\x07\x9b\u202e\u2028\x7f\r")


@pytest.mark.parametrize("name", TEXTS)
def test_text_of_a_journal_reaches_no_terminal_as_it_is(command, run_copy, name):
    forge(run_copy, TEXTS[name])
    read_journal(run_copy / "journal.jsonl")
    shown = []
    for arguments in (("tree",), ("status",), ("show", "A"), ("show", "model-1-1"), ("compare",)):
        for flags in ((), ("--json",)):
            answer = command(arguments[0], run_copy, *arguments[1:], *flags)
            assert answer.code == 0, answer.err
            assert not HIDDEN & set(answer.out + answer.err)
            shown.append(answer.out)
    assert any("reversed" in text for text in shown)


def test_escaped_json_means_the_same(command, run_copy):
    forge(run_copy, _set("generation_planned", "merges", 0, "decision", value=ESCAPES))

    answer = command("show", run_copy, "model-1-1", "--json")

    assert json.loads(answer.out)["decision"] == ESCAPES


@pytest.mark.parametrize("name", ["driver.json", "progress.json"])
def test_text_of_other_files_reaches_no_terminal_as_it_is(command, run_copy, name):
    content = dict.fromkeys(("host", "started", "step", "words", "at"), ESCAPES) | {"pid": 1, "done": 1, "total": 2}
    (run_copy / name).write_text(json.dumps(content))
    if name == "progress.json":
        (run_copy / "driver.json").write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "now"}))

    for flags in ((), ("--json",)):
        assert not HIDDEN & set(command("status", run_copy, *flags).out)
    answer = command("resume", run_copy)
    assert not HIDDEN & set(answer.out + answer.err)


def test_names_on_the_command_line_reach_no_terminal_as_they_are(command, run_copy, tmp_path):
    for arguments in (("status", tmp_path / ESCAPES), ("show", run_copy, ESCAPES), ("run", tmp_path / ESCAPES)):
        answer = command(*arguments)
        assert answer.code == 2
        assert not HIDDEN & set(answer.out + answer.err)


def test_the_trace_of_an_error_reaches_no_terminal_as_it_is(command, run_copy, monkeypatch):
    from evolve.errors import RunError
    from evolve.run.folder import RunFolder

    def fail(path: Path) -> None:
        error = RunError("failed")
        error.add_note(f"Traceback\n  {ESCAPES}")
        raise error

    monkeypatch.setattr(RunFolder, "open", fail)
    answer = command("status", run_copy)
    assert answer.code == 1
    assert "reversed" in answer.err
    assert not HIDDEN & set(answer.err)
