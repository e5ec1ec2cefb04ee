"""Rows of wrong results by misread inputs: settings, weights and records of scores that are taken for others."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runs import events, tree_without_times
from tests.faults.hostile_folders import forged
from tests.faults.hostile_models import HEADERS
from tests.faults.places import configure, text, together
from tests.faults.table import RUN_FOLDER, Change, Fault, Place, Step, nothing

# ----------------------------------------------------------------------------------- settings that are read as others


RECIPE = """merge_method: slerp
base_model: {{ parent_1 }}
models: [{model: {{ parent_1 }}}, {model: {{ parent_2 }}}]
parameters: {t: 0.5}
dtype: {{ dtype }}
"""


def recipe_says(name: str, change: tuple[str, str], *said: str) -> Fault:
    before = together(text("mine.yaml", RECIPE.replace(*change)), configure(merge__recipe="./mine.yaml"))
    words_ = ("<config>: merge.recipe = <family>/mine.yaml", *said)
    return Fault("wrong result", name, "fake", (Step(("check", "<config>"), before, words=words_, engines="fake"),))


def weights(name: str, *values: float) -> Fault:
    keys: dict[str, Any] = {f"evaluation__tasks__{number}__weight": value for number, value in enumerate(values)}
    said = ("<config>: evaluation.tasks.0.weight", "1e-06", "1e+06")
    step = Step(("check", "<config>"), configure(**keys), words=said[:1], engines="fake")
    return Fault("wrong result", name, "fake", (step,))


SETTINGS = (
    recipe_says("a recipe with a key twice", ("parameters: {t: 0.5}", "parameters: {t: 0.5, t: 0.9}"), "'t'"),
    recipe_says("a recipe with a section twice", ("dtype:", "merge_method: linear\ndtype:"), "merge_method"),
    weights("a weight of a task near zero", 5e-324),
    weights("weights of tasks whose sum overflows", 1.5e308, 1.5e308),
    weights("a weight of a task below the range", 1e-7),
    weights("a weight of a task above the range", 1e7),
)

# ------------------------------------------------------------------------------------------------ files of weights


def kinship_of(name: str, header: Change) -> Fault:
    step = Step(
        ("kinship", "--base", "<family>/base", "<family>/A", "<family>/B"),
        header,
        words=("<family>/A/model.safetensors", "header"),
        engines="fake",
    )
    return Fault("wrong result", f"a kinship of weights with {name}", "fake", (step,))


KINSHIPS = tuple(kinship_of(name, header) for name, header in HEADERS.items())

# ------------------------------------------------------------------------------------------------ records of scores


def records(place: Place) -> list[Path]:
    return [*place.runs.glob(".scores/*/*/score.json"), *place.runs.glob("run/evals/*/*/score.json")]


def poisoned(name: str, change: Callable[[Path], object]) -> Fault:
    """Return a row: damaged records in the store of a finished run, which the next run must not believe."""

    def poison(place: Place) -> None:
        for path in place.runs.glob(".scores/*/*/score.json"):
            change(path)

    def ignored(place: Place) -> None:
        ours, theirs = (tree_without_times(place.runs / name) for name in ("second", "run"))
        assert ours["graph"]["run"]
        scores = [{node["id"]: node["scores"] for node in data["nodes"]} for data in (ours, theirs)]
        assert scores[0] == scores[1]
        assert not any(event["reused"] for event in events(place.runs / "second", "model_evaluated"))

    second = Step(
        ("run", "<config>", "--run-dir", "<runs>/second"),
        poison,
        code=0,
        changes=RUN_FOLDER,
        engines="fake",
        after=ignored,
        seconds=20,
    )
    again = Step(("resume", "<runs>/second"), code=0, changes=RUN_FOLDER, engines="fake")
    return Fault("wrong result", f"a record of a score {name}", "finished", (second, again))


def score_with(**values: Any) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        content = json.loads(path.read_text())
        content["score"] |= values
        path.write_text(json.dumps(content))

    return change


def record_with(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def edit(path: Path) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def linked(target: str) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return change


RECORDS = (
    poisoned("outside the range of its metric", score_with(value=7.5)),
    poisoned("below the range of its metric", score_with(value=-0.5)),
    poisoned("of another metric", score_with(metric="f1,none")),
    poisoned("with a standard error of 400 digits", lambda path: path.write_text(
        path.read_text().replace('"stderr": ', '"stderr": ' + "9" * 400))),
    poisoned("without a score", record_with(lambda content: content.pop("score"))),
    poisoned("with a key too many", record_with(lambda content: content.update(more=1))),
    poisoned("of brackets", lambda path: path.write_text("[" * 200_000)),
    poisoned("that is not UTF-8", lambda path: path.write_bytes(b"\xff\xfe")),
    poisoned("that is a pipe", fifo),
    poisoned("that is a device", linked("/dev/zero")),
)  # fmt: skip


def event_without_a_task(name: str, change: Callable[[dict[str, Any]], object]) -> Fault:
    def edit(event: dict[str, Any]) -> None:
        if event["type"] == "model_evaluated" and event["model"] == "A":
            change(event["scores"])

    steps = tuple(
        Step(arguments, before, code=2, words=("journal.jsonl", "line"), engines="fake")
        for arguments, before in ((("status", "<run>"), forged(edit)), (("resume", "<run>"), nothing))
    )
    return Fault("wrong result", f"a journal with scores {name}", "begun", steps)


JOURNALS = (
    event_without_a_task("without a task", lambda scores: scores.pop("beta")),
    event_without_a_task("of a task too many", lambda scores: scores.update(gamma=scores["beta"])),
)

ROWS = (*SETTINGS, *KINSHIPS, *RECORDS, *JOURNALS)
