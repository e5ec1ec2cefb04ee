"""Rows of hostile files: configurations, recipes, models, items and names that are refused within seconds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.places import configure, text, together
from tests.faults.table import Change, Fault, Place, Step, nothing

KINSHIP = ("kinship", "--base", "<family>/base", "<family>/A", "<family>/B")
CHECK = ("check", "<config>")
BRACKETS = 200_000
DIGITS = "9" * 400


def refused(name: str, before: Change, *said: str, arguments: tuple[str, ...] = CHECK, **more: Any) -> Fault:
    """Return a row: a command refuses a file with one message within seconds."""
    options: dict[str, Any] = {"engines": "fake", "seconds": 20.0, "family": "fake"} | more
    family, slow = options.pop("family"), options.pop("slow", False)
    return Fault("hostile file", name, family, (Step(arguments, before, words=said, **options),), slow)


NO_UTF8 = "\udcff"
GONE = "mkdir <root>/gone; cd <root>/gone; rmdir ../gone; $EVOLVE"


def named(name: str, before: Change, arguments: tuple[str, ...], **more: Any) -> Fault:
    options: dict[str, Any] = {"engines": "fake", "code": (0, 2), "changes": ("runs*",)} | more
    family = options.pop("family", "fake")
    return Fault("hostile file", name, family, (Step(arguments, before, **options),))


# -------------------------------------------------------------------------------------------- kinds of unusable files


def replaced(name: str, make: Callable[[Path], object]) -> Change:
    """Return a change that replaces a file of the family."""

    def change(place: Place) -> None:
        path = place.family / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)

    return change


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
    "not UTF-8": lambda path: path.write_bytes(b"name: \xff\xfe\x00"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "very long": lambda path: _sparse(path, 2**26),
}


def _sparse(path: Path, size: int) -> None:
    """Make a file of a length that no disk space is used for."""
    with path.open("wb") as file:
        file.truncate(size)


def unreadable(
    kind: str, name: str, *said: str, without: tuple[str, ...] = (), prepared: Change = nothing, **more: Any
) -> list[Fault]:
    return [
        refused(f"{kind} is {how}", together(prepared, replaced(name, make)), *said, **more)
        for how, make in UNREADABLE.items()
        if how not in without
    ]


# ------------------------------------------------------------------------------------------------------- configurations


def aliases(levels: int = 9) -> str:
    """Return a YAML document whose aliases expand to ten to the power of `levels` entries."""
    lines = ["a0: &a0 [" + ", ".join(["x"] * 10) + "]"]
    lines += [f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 10) + "]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def appended(more: str) -> Change:
    return lambda place: place.config.write_text(place.config.read_text() + more)


LONG = "m" * 101
MINE = "<config>: "


def named_model(name: str) -> Change:
    return configure(foundation_models={"A": "./A", name: "./B"})


CONFIGURATIONS = (
    *unreadable("a configuration", "config.yaml", "<config>"),
    refused("a configuration of brackets", text("config.yaml", "[" * 3000), "<config>"),
    refused("a configuration of mappings", text("config.yaml", "{a: " * 3000), "<config>"),
    refused("a configuration of questions", text("config.yaml", "? " * 3000), "<config>"),
    refused("a configuration with aliases that explode", appended(aliases()), "<config>", "alias"),
    refused("a configuration with merge keys that explode", appended("".join(
        f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}'] * 10)}]}}\n" if n else "b0: &b0 {x: 1}\n" for n in range(9))),
        "<config>", "alias"),
    refused("a configuration with an alias of itself", appended("strategy: &s {name: *s}\n"), "<config>"),
    refused("a configuration with a recursive list", appended("evaluation: &e [*e]\n"), "<config>"),
    refused("a number of 400 digits", appended(f"seed: {DIGITS}\n"), MINE),
    refused("a kinship of 400 digits", configure(strategy__stop_at_kinship=int(DIGITS)), MINE),
    refused("a weight of 400 digits", configure(evaluation__tasks__0__weight=int(DIGITS)), MINE),
    refused("a number of 5,000 digits", appended(f"seed: {'9' * 5000}\n"), "<config>"),
    refused("a number of 5,000 digits in base 16", appended(f"seed: 0x{'f' * 5000}\n"), "<config>"),
    refused("a number in base 60 of 5,000 places", appended(f"seed: 1{':59' * 3000}\n"), "<config>"),
    refused("a date that does not exist", appended("seed: 2024-99-99\n"), "<config>"),
    refused("an unknown tag", appended("seed: !!python/object/apply:os.system [ls]\n"), "<config>"),
    refused("a bad binary", appended("seed: !!binary x\n"), "<config>"),
    refused("a home folder of no one as base", configure(base_model="~nosuchuser/base"), MINE, "base_model",
            "nosuchuser"),
    refused("a home folder of no one as foundation", configure(foundation_models__A="~nosuchuser/A"), MINE,
            "foundation_models.A", "nosuchuser"),
    refused("a home folder of no one as adapter", configure(foundation_models__A={
        "model": "./A", "adapter": "~nosuchuser/A"}), MINE, "foundation_models.A", "nosuchuser"),
    refused("a home folder of no one as data", configure(evaluation__datasets={"alpha": "~nosuchuser/data"}), MINE,
            "evaluation.datasets.alpha", "nosuchuser"),
    refused("a home folder of no one as tasks", configure(evaluation__task_dirs=["~nosuchuser/data"]), MINE,
            "evaluation.task_dirs.0", "nosuchuser"),
    refused("a home folder of no one as recipe", configure(merge__recipe="~nosuchuser/mine.yaml"), MINE, "merge.recipe",
            "nosuchuser"),
    refused("a home folder of no one in kinship", nothing, "nosuchuser",
            arguments=("kinship", "--base", "~nosuchuser/base", "<family>/A", "<family>/B")),
    refused("a path with a null", configure(base_model="./ba\0se"), MINE, "base_model"),
    refused("a path of half a character", text("config.yaml", '{"base_model": "./\\ud800", "foundation_models": '
        '{"A": "./A", "B": "./B"}}'), "<config>"),
    refused("a path of 5,000 characters", configure(base_model="./" + "b" * 5000), "too long"),
    refused("a model name of 101 characters", named_model(LONG), MINE, "foundation_models", "100"),
    refused("a model name of 250 characters", named_model("m" * 250), MINE, "foundation_models", "100"),
    refused("a run name of 101 characters", configure(name=LONG), MINE, "name", "100"),
    refused("a run name of 250 characters", configure(name="m" * 250), MINE, "name", "100"),
    refused("a task name of 250 characters", configure(evaluation__tasks__0__task="m" * 250), MINE,
            "evaluation.tasks.0"),
    refused("an override of brackets", nothing, "seed", arguments=(*CHECK, "--set", "seed=" + "[" * 3000)),
    refused("an override with aliases that explode", nothing, "seed", arguments=(*CHECK, "--set", "seed={"
        + ", ".join(aliases().splitlines()) + "}")),
    refused("an override of 400 digits", nothing, "seed", arguments=(*CHECK, "--set", f"seed={DIGITS}")),
    refused("an override of a deep key", nothing, "a.a.a", arguments=(*CHECK, "--set", ".".join("a" * 5000) + "=1")),
    refused("an override that is not UTF-8", nothing, "seed", arguments=(*CHECK, "--set", "seed=\udcff")),
    refused("a run folder in a home folder of no one", nothing, "nosuchuser", arguments=("status", "~nosuchuser/run")),
)  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- recipes

HEAD = "# {{ parent_1 }} {{ parent_2 }}\n"
BODY = """merge_method: slerp
base_model: {{ parent_1 }}
models: [{model: {{ parent_1 }}}, {model: {{ parent_2 }}}]
parameters: {t: 0.5}
dtype: {{ dtype }}
"""
RECIPE_KEY = "<config>: merge.recipe = <family>/mine.yaml"
USES_MINE = configure(merge__recipe="./mine.yaml")


def recipe(name: str, content: str, *said: str, **more: Any) -> Fault:
    return refused(f"a recipe {name}", together(text("mine.yaml", content), USES_MINE), RECIPE_KEY, *said, **more)


def loop(inner: str) -> str:
    return f"{{% for a in range(99999) %}}{{% for b in range(99999) %}}{inner}{{% endfor %}}{{% endfor %}}"


BILLION = "{{ 'a' * 10**11 }}"
RECIPES = (
    *unreadable("a recipe", "mine.yaml", "<config>: merge.recipe", prepared=USES_MINE),
    recipe("with a recursive alias", BODY + "x: &x [*x]\n"),
    recipe("with a recursive mapping", BODY.replace("{t: 0.5}", "&p {t: *p}")),
    recipe("with aliases that explode", BODY + aliases()),
    recipe("of 3,000 brackets", BODY + "x: " + "[" * 3000),
    recipe("of 3,000 brackets in a placeholder", BODY + "x: {{ " + "(" * 3000 + "1" + ")" * 3000 + " }}\n"),
    recipe("of 3,000 loops", BODY + "{% if 1 %}" * 3000 + "{% endif %}" * 3000),
    recipe("with a recursive macro", BODY + "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
    recipe("with a string of 10^11", BODY + f"x: {BILLION}\n"),
    recipe("with a list of 10^10", BODY + "x: {{ [0] * 10**10 }}\n"),
    recipe("with a power of powers", BODY + "x: {{ 10 ** (10 ** 10) }}\n"),
    recipe("with a format of 10^11", BODY + "x: {{ '%100000000000d' % 1 }}\n"),
    recipe("with a format method of 10^11", BODY + "x: {{ '{:100000000000d}'.format(1) }}\n"),
    recipe("that centers in 10^11", BODY + "x: {{ 'a' | center(10**11) }}\n"),
    recipe("that indents by 10^11", BODY + "x: {{ 'a\\nb' | indent(10**11) }}\n"),
    recipe("that pads to 10^11", BODY + "x: {{ 'a'.ljust(10**11) }}\n"),
    recipe("that replaces again and again", BODY + "{% set x = 'a' * 9999 %}{{ x.replace('a', x).replace('a', x) }}"),
    recipe("that sums strings in a loop", BODY + "{% set n = namespace(x='a') %}{% for i in range(64) %}"
           "{% set n.x = n.x ~ n.x %}{% endfor %}"),
    recipe("with a loop of 10^10", BODY + loop("")),
    recipe("with a loop of 10^10 that writes", BODY + loop("x")),
    recipe("with a loop over a filter", BODY + "{% for a in (range(99999) | batch(1)) %}" + loop("") + "{% endfor %}"),
    recipe("of lorem ipsum", BODY + "# {{ lipsum(n=10**7) }}"),
    recipe("that looks into Python", BODY + "x: {{ ''.__class__.__mro__ }}\n"),
    recipe("that includes a file", BODY + "{% include '/etc/passwd' %}"),
    recipe("with a tag", BODY + "x: !!python/object/apply:os.system [ls]\n"),
    recipe("that is empty", ""),
    recipe("that is a comment", HEAD),
    recipe("with a null", BODY + "x: \0"),
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------ names of files


def into_bytes(name: bytes) -> Change:
    """Return a change that copies the configuration to a name that is not UTF-8."""

    def change(place: Place) -> None:
        target = os.path.join(os.fsencode(place.family), name)  # noqa: PTH118
        Path(os.fsdecode(target)).write_bytes(place.config.read_bytes())

    return change


NAMES = (
    named("a run folder that is not UTF-8", nothing, ("run", "<config>", "--run-dir", f"<runs>/{NO_UTF8}")),
    named("a run that is not UTF-8", nothing, ("status", f"<runs>/{NO_UTF8}"), code=2),
    named("a run that is copied to a name that is not UTF-8", lambda place: shutil.copytree(
        place.run, place.runs / NO_UTF8), ("status", f"<runs>/{NO_UTF8}"), family="finished"),
    named("a run that is resumed under a name that is not UTF-8", lambda place: shutil.copytree(
        place.run, place.runs / NO_UTF8), ("resume", f"<runs>/{NO_UTF8}"), family="begun"),
    named("a configuration whose name is not UTF-8", into_bytes(b"\xff.yaml"),
          ("check", f"<family>/{NO_UTF8}.yaml")),
    named("a family whose folder is not UTF-8", lambda place: shutil.copytree(place.family, place.root / NO_UTF8),
          ("run", f"<root>/{NO_UTF8}/config.yaml", "--run-dir", "<run>")),
    named("a model whose folder is not UTF-8 in kinship", lambda place: shutil.copytree(
        place.family / "A", place.root / NO_UTF8),
          ("kinship", "--base", "<family>/base", "<family>/B", f"<root>/{NO_UTF8}")),
    named("a model name that is not UTF-8", nothing, ("show", "<run>", NO_UTF8), family="finished", code=2),
    named("a run folder with a null", nothing, ("status", "run\0"), code=2),
    named("a run folder of 5,000 characters", nothing, ("status", "r" * 5000), code=2),
    named("a working directory that was deleted", nothing, (), shell=f"{GONE} status <run>", family="finished"),
    named("a relative path in a deleted working directory", nothing, (), shell=f"{GONE} status run",
          family="finished", code=2),
    named("a check in a deleted working directory", nothing, (), shell=f"{GONE} check <config>"),
    named("a run in a deleted working directory", nothing, (), shell=f"{GONE} run <config>", code=2),
    named("a new run folder in a home folder of no one", nothing, ("run", "<config>", "--run-dir", "~nosuchuser/run"),
          changes=("~nosuchuser*",)),
)  # fmt: skip

ROWS = (*CONFIGURATIONS, *RECIPES, *NAMES)
