"""Rows of folders that change in a run, of folders that moved, and of task folders with code."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.faults.commands import FAKE_EVOLVE
from tests.faults.places import configure, task_of_questions, together, write
from tests.faults.table import RUN_FOLDER, Change, Fault, Place, Step

# ----------------------------------------------------------------------------------- a folder that changes in a run

LONGER = configure(strategy__max_generations=2)
SECOND = f"cd <root> && {sys.executable} {FAKE_EVOLVE} resume <run> > second.out 2>&1; echo $? > second.code"
RUN = ("run", "<config>", "--run-dir", "<run>")


def second_refused(place: Place) -> None:
    out = (place.root / "second.out").read_text()
    assert (place.root / "second.code").read_text() == "2\n", out
    assert "is being driven" in out
    numbers = [json.loads(line)["seq"] for line in (place.run / "journal.jsonl").read_text().splitlines()]
    assert numbers == list(range(1, len(numbers) + 1))


def rescued(place: Place) -> None:
    found = list(place.run.rglob("journal.rescued.jsonl"))
    assert found, "no journal.rescued.jsonl"
    kinds = [json.loads(line)["event"]["type"] for line in found[0].read_text().splitlines()]
    assert kinds[0] == "run_started"
    assert "model_evaluated" in kinds


def during(name: str, script: str, **more: Any) -> Fault:
    options = {"engines": "fake", "changes": (*RUN_FOLDER, "second.*", "elsewhere/*", "elsewhere")} | more
    hook = {"evaluate": (2, script)}
    return Fault("hostile folder", name, "fake", (Step(RUN, LONGER, hooks=hook, **options),))  # type: ignore[arg-type]


GONE = {"code": 1, "words": ("journal.jsonl", "journal.rescued.jsonl"), "after": rescued}
DURING = (
    during("the lock is deleted in a run", f"rm <run>/.lock; {SECOND}", code=0, after=second_refused),
    during("the lock and its holder are deleted in a run", f"rm <run>/.lock <run>/driver.json; {SECOND}", code=0,
           after=second_refused),
    during("the lock is replaced in a run", f"rm <run>/.lock; touch <run>/.lock; {SECOND}", code=0,
           after=second_refused),
    during("the journal is deleted in a run", "rm <run>/journal.jsonl", **GONE),
    during("the journal is replaced in a run",
           "cp <run>/journal.jsonl <run>/j; mv <run>/j <run>/journal.jsonl", **GONE),
    during("the journal is cut in a run", "truncate -s 100 <run>/journal.jsonl", **GONE),
    during("the journal is written by another in a run", "echo >> <run>/journal.jsonl", **GONE),
    during("the run folder is moved in a run", "mkdir <root>/elsewhere; mv <run> <root>/elsewhere/run", code=1,
           words=("journal.jsonl",)),
    during("the run folder is deleted in a run", "rm -r <run>", code=1, words=("journal.jsonl",)),
    during("staging becomes a link in a run", "rm -r <run>/staging; ln -s <victim> <run>/staging", code=(0, 1, 2)),
)  # fmt: skip

# -------------------------------------------------------------------------------------------------- code in a folder

OWN_TASK = task_of_questions("<family>/tasks/items.jsonl")
CODE = "from pathlib import Path\nPath('<root>/ran').touch()\ndef target(doc):\n    return doc['label']\n"


def foreign_task(code: str = "own", *, where: str = "tasks") -> Change:
    def change(place: Place) -> None:
        rows = [{"question": f"Is {number} even?", "label": number % 2} for number in range(4)]
        write(place.family / "tasks" / "items.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        shown = place.named(yaml.safe_dump(OWN_TASK)) + f"doc_to_target: !function {code}.target\n"
        write(place.family / "tasks" / "mine.yaml", shown)
        write(place.family / where / "own.py", place.named(CODE))
        configure(evaluation__tasks=[{"task": "mine"}], evaluation__datasets={}, evaluation__task_dirs=["./tasks"])(
            place
        )

    return change


def included_task(place: Place) -> None:
    foreign_task()(place)
    task = (place.family / "tasks" / "mine.yaml").read_text()
    head = "doc_to_target: !function own.target"
    write(place.family / "tasks" / "common.yaml", head + "\n")
    write(place.family / "tasks" / "mine.yaml", task.replace(head, "include: common.yaml"))


def class_task(place: Place) -> None:
    foreign_task()(place)
    content = (
        place.named(CODE) + "from lm_eval.api.task import ConfigurableTask\nclass Mine(ConfigurableTask):\n    pass\n"
    )
    write(place.family / "tasks" / "own.py", content)
    write(place.family / "tasks" / "mine.yaml", "task: mine\nclass: !function own.Mine\n")


def not_run(place: Place) -> None:
    assert not (place.root / "ran").exists(), "the code ran"


def untrusted(name: str, before: Change) -> Fault:
    said = ("evaluation.trust_task_code", "own.py")
    steps = (
        Step(("check", "<config>"), before, words=said, after=not_run),
        Step(("run", "<config>", "--run-dir", "<run>"), words=said, after=not_run),
    )
    return Fault("hostile folder", f"code in {name} runs unasked", "real", steps)


TRUST = (
    untrusted("a folder of tasks", foreign_task()),
    untrusted("a file that a task includes", included_task),
    untrusted("the class of a task", class_task),
    Fault("hostile folder", "trusted code of a task is refused", "real", (
        Step(("check", "<config>"), together(foreign_task(), configure(evaluation__trust_task_code=True)), code=0,
             words=("Ready: ",), changes=("ran", "family/tasks/__pycache__*")),)),
)  # fmt: skip

# ------------------------------------------------------------------------------------------------------ moved folders


def moved(place: Place) -> None:
    (place.root / "moved").mkdir()
    shutil.move(place.runs, place.root / "moved" / "runs")


def recipes_fit(folder: str) -> Change:
    def check(place: Place) -> None:
        recipes = sorted(Path(place.named(folder)).glob("recipes/*.yaml"))
        assert recipes
        paths = [path for recipe in recipes for path in _paths(yaml.safe_load(recipe.read_text()))]
        assert paths
        assert not [path for path in paths if not Path(path).is_dir()]

    return check


def _paths(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["path"]] if isinstance(value.get("path"), str) else []
        return own + [path for part in value.values() for path in _paths(part)]
    return [path for part in value for path in _paths(part)] if isinstance(value, list) else []


def moving(name: str, family: str) -> Fault:
    step = Step(("resume", "<root>/moved/runs/run"), moved, code=0, changes=("moved/*",), engines="fake",
                after=recipes_fit("<root>/moved/runs/run"))  # fmt: skip
    return Fault("hostile folder", name, family, (step,))  # type: ignore[arg-type]


MOVED = (moving("recipes of a moved run", "begun"), moving("recipes of a moved run that has finished", "finished"))

ROWS = (*DURING, *TRUST, *MOVED)
