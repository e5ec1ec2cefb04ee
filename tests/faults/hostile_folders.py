"""Rows of hostile folders: run folders that were copied, shared or downloaded, and folders that change in a run."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from typing import Any

from tests.faults.places import configure, text, together, write
from tests.faults.table import RUN_FOLDER, Change, Fault, Place, Step, nothing

RESUME = ("resume", "<run>")
Event = dict[str, Any]


def forged(change: Callable[[Event], object]) -> Change:
    """Return a change of the events of a journal, whose checksums are right again."""

    def forge(place: Place) -> None:
        path = place.run / "journal.jsonl"
        lines = []
        for line in path.read_bytes().split(b"\n")[:-1]:
            entry = json.loads(line)
            change(entry["event"])
            lines.append(sealed(entry, place))
        path.write_bytes(b"".join(lines))

    return forge


def sealed(entry: dict[str, Any], place: Place) -> bytes:
    """Return the line of an entry with its checksum."""
    entry.pop("crc", None)
    body = place.named(json.dumps(entry, ensure_ascii=False)).encode(errors="surrogatepass")[:-1]
    return body + f', "crc": "{zlib.crc32(body):08x}"}}\n'.encode()


def hostile(
    name: str, before: Change, *, family: str = "begun", code: int | tuple[int, ...] = (0, 1, 2), **more: Any
) -> Fault:
    """Return a row: a run is resumed, and may only write into its own folder."""
    options = {"engines": "fake", "changes": RUN_FOLDER, "seconds": 30.0} | more
    step = Step(options.pop("arguments", RESUME), before, code=code, **options)  # type: ignore[arg-type]
    return Fault("hostile folder", name, family, (step,))  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------------- links


def linked(path: str, target: str = "<victim>") -> Change:
    """Return a change that replaces a path of the run by a link."""

    def change(place: Place) -> None:
        link = place.run / path
        if link.is_dir() and not link.is_symlink():
            shutil.rmtree(link)
        link.unlink(missing_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(place.named(target))

    return change


def moved_out(name: str) -> Change:
    """Return a change that moves a folder of the run to another place and leaves a link, as a user may."""

    def change(place: Place) -> None:
        (place.root / "elsewhere").mkdir(exist_ok=True)
        shutil.move(place.run / name, place.root / "elsewhere" / name)
        (place.run / name).symlink_to(place.root / "elsewhere" / name)

    return change


FOREIGN_FILE = "<victim>/precious.txt"
LINKS = (
    hostile("staging is a link", linked("staging")),
    hostile("an entry of staging is a link", linked("staging/requests-foreign")),
    hostile("a staging folder of a merge is a link", linked("staging/merge-model-1-2")),
    hostile("a staging folder of an evaluation is a link", linked("staging/evaluate-model-1-2")),
    hostile("a staging folder of cached scores is a link", linked("staging/known-model-1-2")),
    hostile("an unfinished entry of staging is a link", linked("staging/.old.gone")),
    hostile("a checkpoint is a link", linked("models/model-1-1")),
    hostile("a checkpoint to come is a link", linked("models/model-1-2")),
    hostile("an evaluation is a link", linked("evals/model-1-1")),
    hostile("an evaluation to come is a link", linked("evals/model-1-2")),
    hostile("the recipes are a link", linked("recipes")),
    hostile("a recipe is a link", linked("recipes/model-1-2.yaml", FOREIGN_FILE)),
    hostile("a leftover is a link", linked(".models.gone")),
    hostile("a leftover of the models is a link", linked("models/.model-1-1.gone")),
    hostile("the log is a link", linked("run.log", FOREIGN_FILE)),
    hostile("the log is a link to a new file", linked("run.log", "<victim>/new.log")),
    hostile("the lock is a link", linked(".lock", FOREIGN_FILE)),
    hostile("the lock is a link to a new file", linked(".lock", "<victim>/new.lock")),
    hostile("the holder of the lock is a link", linked("driver.json", FOREIGN_FILE)),
    hostile("the progress is a link", linked("progress.json", FOREIGN_FILE)),
    hostile("the tree is a link", linked("family_tree.json", FOREIGN_FILE)),
    hostile("the configuration is a link", linked("config.yaml", FOREIGN_FILE)),
    hostile("the store of scores has a link", linked("../.scores/.abc.gone")),
    hostile("folders that the user moved away are refused",
            together(moved_out("models"), moved_out("evals")), code=0, changes=(*RUN_FOLDER, "elsewhere/*")),
    hostile("a finished run has staging as a link", linked("staging"), family="finished"),
)  # fmt: skip

# ----------------------------------------------------------------------------------------------------- forged journals


def forgery(name: str, change: Callable[[Event], object], *, kept: bool = False) -> Fault:
    """Return a row: every command refuses a forged journal and touches nothing; its message names the journal.

    Args:
        name: What is forged.
        change: Forges an event.
        kept: Whether a run may also be shown and resumed, which may only write into its own folder.
    """
    commands = (("status", "<run>"), ("tree", "<run>"), ("resume", "<run>"))
    options: dict[str, Any] = {"code": (0, 1, 2), "changes": RUN_FOLDER} if kept else {"words": ("journal.jsonl",)}
    steps = [
        Step(arguments, forged(change) if number == 0 else nothing, engines="fake", seconds=30, **options)
        for number, arguments in enumerate(commands)
    ]
    return Fault("hostile folder", f"a journal with {name}", "begun", tuple(steps))


def renamed(old: str, new: str) -> Callable[[Event], object]:
    """Return a change that renames a model wherever an event names it."""

    def change(event: Event) -> None:
        changed = json.loads(json.dumps(event).replace(json.dumps(old), json.dumps(new)))
        event.clear()
        event.update(changed)

    return change


def where(kind: str, **values: Any) -> Callable[[Event], object]:
    def change(event: Event) -> None:
        if event["type"] == kind:
            event.update(values)

    return change


def foundation(**values: Any) -> Callable[[Event], object]:
    def change(event: Event) -> None:
        if event["type"] == "run_started":
            event["foundations"][0].update(values)

    return change


def merge_with(**values: Any) -> Callable[[Event], object]:
    def change(event: Event) -> None:
        if event["type"] == "generation_planned":
            event["merges"][-1].update(values)

    return change


def configured(section: str, **values: Any) -> Callable[[Event], object]:
    def change(event: Event) -> None:
        if event["type"] == "run_started":
            event["config"][section].update(values)

    return change


def task_named(name: str) -> Callable[[Event], object]:
    return renamed("alpha", name)


FORGED = (
    forgery("a child named as a path", renamed("model-1-2", "../../../victim")),
    forgery("a scored child named as a path", renamed("model-1-1", "../../../victim")),
    forgery("a child named as an absolute path", renamed("model-1-2", "/etc")),
    forgery("a foundation named as a path", renamed("A", "../../../victim")),
    forgery("a child named as the parent folder", renamed("model-1-2", "..")),
    forgery("a child without a name", renamed("model-1-2", "")),
    forgery("a hidden child", renamed("model-1-2", ".model-1-2")),
    forgery("a child of 250 characters", renamed("model-1-2", "m" * 250)),
    forgery("a child whose name has an escape", renamed("model-1-2", "model\x1b[2J")),
    forgery("a child whose name has a line break", renamed("model-1-2", "model\nmodel")),
    forgery("a child whose name has a null", renamed("model-1-2", "model\0")),
    forgery("a child whose name is half a character", renamed("model-1-2", "model-\ud800")),
    forgery("a checkpoint in /etc", where("model_merged", checkpoint="/etc"), kept=True),
    forgery("a checkpoint in a foreign folder", where("model_merged", checkpoint="../../victim"), kept=True),
    forgery("a checkpoint that is the run", where("model_merged", checkpoint="."), kept=True),
    forgery("a recipe in a foreign folder", where("model_merged", recipe="../../victim/precious.txt"), kept=True),
    forgery("a task named as a path", task_named("../../../victim"), kept=True),
    forgery("a task named as the parent folder", task_named(".."), kept=True),
    forgery("a number of 400 digits", where("model_merged", seconds=int("9" * 400))),
    forgery("a size of 400 digits", where("model_merged", bytes=int("9" * 400))),
    forgery("a generation of 400 digits", where("generation_planned", generation=int("9" * 400))),
    forgery("a recipe of 3,000 brackets", where("run_started", recipes={
        "slerp": "{{ parent_1 }}{{ parent_2 }}" + "[" * 3000}), kept=True),
    forgery("a recipe that loops", where("run_started", recipes={"slerp": "{{ parent_1 }}{{ parent_2 }}"
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"}), kept=True),
)  # fmt: skip

# ------------------------------------------------------------------------------------------- text that is not plain

ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\x7f\r"


def seen(name: str, before: Change, *commands: tuple[str, ...], family: str = "finished") -> Fault:
    """Return a row: commands that show a run print no control characters."""
    steps = [
        Step(arguments, before if number == 0 else nothing, code=(0, 2), changes=RUN_FOLDER, engines="fake")
        for number, arguments in enumerate(commands)
    ]
    return Fault("hostile folder", f"escapes in {name}", family, tuple(steps))  # type: ignore[arg-type]


STATUS, TREE, SHOW = ("status", "<run>"), ("tree", "<run>"), ("show", "<run>", "model-1-1")
COMPARE = ("compare", "<run>", "<run>")
TEXTS = (
    seen("the reason of a stop", forged(where("run_stopped", detail=ESCAPES)), STATUS, TREE, ("resume", "<run>")),
    seen("the name of a run", forged(where("run_started", run=ESCAPES)), STATUS, TREE, SHOW, COMPARE),
    seen("the name of a task", forged(task_named(f"a{ESCAPES}")), STATUS, TREE, SHOW, COMPARE),
    seen("the source of a foundation", forged(foundation(source=ESCAPES, path=f"/{ESCAPES}")), STATUS, TREE,
         ("show", "<run>", "A")),
    seen("the decision of a merge", forged(merge_with(decision=ESCAPES)), STATUS, TREE,
         ("show", "<run>", "model-1-3"), ("show", "<run>", "model-1-3", "--json")),
    seen("the name of a recipe", forged(merge_with(recipe=ESCAPES)), STATUS, TREE, ("show", "<run>", "model-1-3")),
    seen("the versions", forged(where("run_started", versions={"evolve": ESCAPES, "lm_eval": ESCAPES})),
         STATUS, SHOW, RESUME),
    seen("the metric of a score", forged(renamed("acc,none", f"a{ESCAPES},b")), STATUS, SHOW, COMPARE),
    seen("the holder of a lock", lambda place: write(place.run / "driver.json", json.dumps(
        {"host": ESCAPES, "pid": 1, "started": ESCAPES})), STATUS, RESUME, family="begun"),
    seen("the progress", lambda place: write(place.run / "progress.json", json.dumps(
        {"step": ESCAPES, "model": ESCAPES, "words": ESCAPES, "done": 1, "total": 2, "at": ESCAPES})), STATUS,
        family="begun"),
    seen("the name of a folder", nothing, ("status", f"<runs>/{ESCAPES}"), ("tree", ESCAPES), family="none"),
    seen("the name of a model that is asked for", nothing, ("show", "<run>", ESCAPES)),
    seen("a configuration", text("config.yaml", json.dumps({"name": ESCAPES, "base_model": ESCAPES, ESCAPES: 1})),
         ("check", "<config>"), family="fake"),
    seen("an override", nothing, ("check", "<config>", "--set", f"seed={ESCAPES}"), family="fake"),
    seen("a model type", together(*(lambda place, m=m: write(place.family / m / "config.json", json.dumps(
        {"model_type": f"x{ESCAPES}{m}", "architectures": [ESCAPES]})) for m in ("A", "base"))),
        ("check", "<config>"), ("kinship", "--base", "<family>/base", "<family>/A", "<family>/B"), family="fake"),
    seen("a recipe", together(text("mine.yaml", f"{{{{ parent_1 }}}}{{{{ parent_2 }}}}{{{{ x }}}}{ESCAPES}"),
         configure(merge__recipe="./mine.yaml")), ("check", "<config>"), family="fake"),
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- repairs


def counted(place: Place) -> None:
    tally = place.root / "tally"
    merges = [line for line in tally.read_text().splitlines() if line == "merge model-1-1"] if tally.exists() else []
    assert len(merges) <= 2, f"{len(merges)} repairs"


REPAIRS = (
    hostile(
        "a repair that never repairs",
        forged(where("model_merged", checkpoint="models/elsewhere")),
        env={"EVOLVE_FAKE_TALLY": "<root>/tally"},
        changes=(*RUN_FOLDER, "tally"),
        after=counted,
    ),
)

ROWS = (*LINKS, *FORGED, *TEXTS, *REPAIRS)
