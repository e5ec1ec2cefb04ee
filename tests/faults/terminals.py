"""Rows of terminals: output that is closed, full or broken, and signals."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from runs import events
from tests.faults.places import configure, write
from tests.faults.table import RUN_FOLDER, Change, Fault, Place, Step, nothing, sparing

TOOL = f"{sys.executable} {Path(__file__).parent}"
RUN = "$EVOLVE run <config> --run-dir <run>"


def went_on(place: Place) -> None:
    """Assert that the run has finished and wrote its log."""
    assert len(events(place.run, "run_stopped")) == 1
    assert (place.run / "run.log").exists()
    assert not (place.run / "driver.json").exists()


def terminal(name: str, shell: str, *, before: Change = nothing, family: str = "fake", **more: Any) -> Fault:
    options: dict[str, Any] = {"engines": "fake", "code": 0, "changes": RUN_FOLDER} | more
    return Fault("terminal", name, family, (Step((), before, shell=shell, **options),))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------ output of a run

CODE = 'exit "${PIPESTATUS[0]}"'
SLOW = {"EVOLVE_FAKE": "evaluate:*:sleep0.3"}
OUTPUTS = (
    terminal("a run in a pipe that is closed", f"{RUN} 2>&1 | head -c 1; {CODE}", after=went_on, env=SLOW),
    terminal("a run in a pipe that no one reads", f"{RUN} 2>&1 | true; {CODE}", after=went_on, env=SLOW),
    terminal("a run on a full device", f"{RUN} > /dev/full 2>&1", after=went_on),
    terminal("a run whose output is closed", f"{RUN} >&-", after=went_on),
    terminal("a run whose errors are closed", f"{RUN} 2>&-", after=went_on),
    terminal("a run whose outputs are closed", f"{RUN} >&- 2>&-", after=went_on),
    terminal("a run without an input", f"{RUN} <&-", after=went_on),
    terminal("a run without input and outputs", f"{RUN} <&- >&- 2>&-", after=went_on),
    terminal("a run on a terminal that is closed",
             f"{TOOL}/closing_terminal.py ignore '<run>/evals/A' {RUN}", after=went_on, env=SLOW),
    terminal("a resumed run whose outputs are closed", "$EVOLVE resume <run> >&- 2>&-", family="begun", after=went_on),
    terminal("a finished run on a full device", "$EVOLVE resume <run> > /dev/full 2>&1", family="finished"),
    terminal("a run with an encoding of ASCII", f"LC_ALL=C PYTHONIOENCODING=ascii PYTHONUTF8=0 {RUN}", after=went_on),
    terminal("a real run whose outputs are closed", f"{RUN} >&- 2>&-", family="real", engines="real",
             after=went_on),
)  # fmt: skip

# --------------------------------------------------------------------------------------------------- output of a look

FAILED = (0, 1, 2, 74, 120, 141)
LOOKS = (
    *(terminal(f"{command} {how}", f"$EVOLVE {command} {more} {target}; {CODE if '|' in target else 'exit $?'}",
               family="finished", code=FAILED, changes=())
      for command, more in (("status", "<run> --json"), ("tree", "<run>"), ("compare", "<run> <run>"))
      for how, target in (("with closed output", ">&-"), ("on a full device", ">/dev/full"),
                          ("in a closed pipe", "| true"), ("with closed outputs", ">&- 2>&-"))),
    terminal("help on a full device", "$EVOLVE --help >/dev/full", code=FAILED, changes=()),
    terminal("the version with closed output", "$EVOLVE --version >&-", code=FAILED, changes=()),
    terminal("an error with closed errors", "$EVOLVE status <root>/none 2>&-", code=2, changes=()),
    terminal("an error on a full device", "$EVOLVE status <root>/none 2>/dev/full", code=2, changes=()),
    terminal("a check with closed output", "$EVOLVE check <config> >&-", code=FAILED, changes=()),
    terminal("a check on a full device", "$EVOLVE check <config> > /dev/full", code=FAILED, changes=()),
)  # fmt: skip

# -------------------------------------------------------------------------------------------------------------- signals


def signalled(name: str, number: str, marker: str, code: int, *said: str, command: str = RUN, **more: Any) -> Fault:
    """Return a row: a command gets a signal as soon as a file exists; its exit code and message are judged."""
    shell = f"{TOOL}/signalling.py {number} '{marker}' {command}"
    return terminal(name, shell, code=code, words=said, **more)


def resumable(place: Place) -> None:
    assert events(place.run, "run_started")
    assert not events(place.run, "run_stopped")
    assert not (place.run / "driver.json").exists()


def nothing_left(place: Place) -> None:
    assert not place.runs.exists()
    assert not list((place.root / "temporary").iterdir())


def slow_at(engine: str) -> Change:
    """Return a change that lets an engine wait; a marker tells that it does."""
    return lambda place: write(place.root / "hooks.json", f'{{"{engine}": [1, "touch {place.root}/waits; sleep 60"]}}')


def pickled(place: Place) -> None:
    """Give B pickled weights, which are converted before the first event."""
    import torch
    from safetensors.torch import load_file

    folder = place.family / "B"
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    configure(allow_pickled_weights=True)(place)


HOOKED = f"{TOOL}/hooked_evolve.py <root>/hooks.json"
IN_RUN = {"EVOLVE_FAKE": "evaluate:model-1-1:sleep5"}
STAGES = ("inspect_models", "inspect_tasks", "plan_merges", "rehearse_merge", "rehearse_evaluation")
SIGNALS = (("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129))
KILLS = (
    *(signalled(f"{number} in a run", number, "<run>/evals/A", code, f"interrupted by {number}", "nothing is lost",
                "evolve resume <run>", env=IN_RUN, after=resumable) for number, code in SIGNALS),
    terminal("SIGHUP that is ignored", f"{TOOL}/signalling.py --ignored SIGHUP '<run>/evals/A' {RUN}", after=went_on),
    terminal("a terminal that is closed stops a run", f"{TOOL}/closing_terminal.py default '<run>/evals/A' {RUN}",
             code=129, env={"EVOLVE_FAKE": "evaluate:*:sleep1"}, after=resumable),
    *(signalled(f"{number} in {stage}", number, "<root>/waits", code, f"interrupted by {number}",
                command=f"{HOOKED} run <config>", before=slow_at(stage), changes=("waits",), after=nothing_left)
      for stage in STAGES for number, code in (SIGNALS if stage == "rehearse_evaluation" else SIGNALS[1:2])),
    *(signalled(f"{number} in the check of {stage}", number, "<root>/waits", code, f"interrupted by {number}",
                command=f"{HOOKED} check <config>", before=slow_at(stage), changes=("waits",), after=nothing_left)
      for stage in ("rehearse_merge",) for number, code in SIGNALS),
    signalled("SIGTERM in a conversion", "SIGTERM", "runs/.converted/.*.lock", 143, "interrupted by SIGTERM",
              command="$EVOLVE run <config>", before=pickled, after=nothing_left),
)  # fmt: skip

# -------------------------------------------------------------------------------------------------------------- nursery


def nursery(name: str, before: Change, target: str = "<victim>", **more: Any) -> Fault:
    options: dict[str, Any] = {"words": (target,), "seconds": 20.0} | more
    return Fault("terminal", f"the nursery in {name}", "none", (Step(("nursery", target), before, **options),))


def mount(place: Place) -> None:
    """Make a folder like the root of a file system: folders, nothing hidden."""
    for name in ("etc", "home", "usr"):
        write(place.victim / name / "file", "x")


NURSERIES = (
    nursery("a foreign folder", nothing),
    nursery("a folder like the root", mount),
    nursery("a folder with a file that looks like its own", lambda place: write(place.victim / "base" / "file", "x")),
    nursery("a file", nothing, "<victim>/precious.txt"),
    nursery("a link to a foreign folder", lambda place: (place.root / "link").symlink_to(place.victim), "<root>/link"),
    nursery("a folder with a manifest of null", lambda place: write(place.victim / "nursery.json", "null")),
    nursery("a folder with a manifest of brackets", lambda place: write(place.victim / "nursery.json", "[" * 200_000)),
)

ROWS = (
    *sparing(
        OUTPUTS,
        "a run in a pipe that is closed",
        "a run on a full device",
        "a run without input and outputs",
        "a run on a terminal that is closed",
        "a resumed run whose outputs are closed",
    ),
    *sparing(
        LOOKS,
        "status with closed output",
        "status with closed outputs",
        "tree on a full device",
        "compare in a closed pipe",
        "help on a full device",
        "an error on a full device",
        "a check with closed output",
    ),
    *sparing(
        KILLS,
        "SIGTERM in a run",
        "SIGHUP in a run",
        "SIGHUP that is ignored",
        "a terminal that is closed stops a run",
        "SIGTERM in inspect_tasks",
        "SIGINT in rehearse_evaluation",
        "SIGTERM in the check of rehearse_merge",
        "SIGTERM in a conversion",
    ),
    *NURSERIES,
)
