"""What there is to compare of two runs of one configuration, and what a killed run leaves to go on from."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).parent


def portrait(run: Path, *, retries: bool = True) -> dict[str, Any]:
    """The family tree without times; without retries where workers died that did not in the other run."""
    data: dict[str, Any] = json.loads((run / "family_tree.json").read_text())
    for node in data["nodes"]:
        del node["seconds"], node["times"]
        if not retries:
            node.pop("retries")
    return data


def outcome(run: Path) -> dict[str, Any]:
    """The portrait of a run, without the places of its foundations."""
    data = portrait(run)
    for node in data["nodes"]:
        if node["kind"] == "foundation":
            del node["checkpoint"]
    return data


def journal(run: Path) -> list[dict[str, Any]]:
    """The events of a journal, a torn last line left out."""
    lines = (run / "journal.jsonl").read_bytes().split(b"\n")[:-1]
    return [json.loads(line)["event"] for line in lines]


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in journal(run) if event["type"] == kind]


def files(run: Path) -> list[str]:
    """Every file and folder of a run and of the score store beside it."""
    roots = (run, run.parent / ".scores")
    return sorted(str(path.relative_to(run.parent)) for root in roots for path in root.rglob("*"))


def in_place(run: Path) -> set[str]:
    """What was finished: `merge <model>`, `evaluate <model>` and `measure <a>-<b>`."""
    done = {f"merge {path.parent.name}" for path in run.glob("models/[!.]*/evolve.json")}
    done |= {f"evaluate {path.name}" for path in run.glob("evals/[!.]*")}
    if (run / "journal.jsonl").exists():
        done |= {f"measure {'-'.join(sorted((e['a'], e['b'])))}" for e in events(run, "kinship_measured")}
    return done


def tallied(path: Path) -> Counter[str]:
    """How often each piece of work was begun; a kinship counts by its pairs."""
    found: Counter[str] = Counter()
    for line in path.read_text().splitlines() if path.exists() else []:
        kind, *subjects = line.split()
        found.update(f"{kind} {subject}" for subject in subjects)
    return found


@dataclass(frozen=True)
class Reference:
    """A run that nothing happened to."""

    run: Path
    portrait: dict[str, Any]
    files: list[str]
    tally: Counter[str]
    passed: dict[str, int]

    @classmethod
    def of(cls, run: Path, tally: Path, passed: dict[str, int] | None = None) -> Reference:
        return cls(run, portrait(run), files(run), tallied(tally), passed or {})

    def check(self, run: Path, *, retries: bool = True) -> None:
        """The other run came to the same, and left the same files."""
        ours = copy.deepcopy(self.portrait)
        for node in ours["nodes"]:
            if not retries:
                node.pop("retries")
        assert portrait(run, retries=retries) == ours
        assert files(run) == self.files


def environment(**extra: str | Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVOLVE_FA")}
    return {**kept, "COLUMNS": "200", **{name: str(value) for name, value in extra.items()}}


def start(*arguments: str | Path, **env: str | Path) -> subprocess.Popen[str]:
    """The command with fake engines, as the leader of a process group."""
    return subprocess.Popen(
        [sys.executable, str(SUPPORT / "fake_evolve.py"), *map(str, arguments)],
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
