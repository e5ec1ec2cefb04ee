"""Helpers to compare runs of one configuration, and to list the finished work of a killed run."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).parent


def tree_without_times(run: Path, *, retries: bool = True) -> dict[str, Any]:
    """Return the family tree without times, and without retries if `retries` is false."""
    data: dict[str, Any] = json.loads((run / "family_tree.json").read_text())
    for node in data["nodes"]:
        del node["seconds"], node["times"]
        if not retries:
            node.pop("retries")
    return data


def outcome(run: Path) -> dict[str, Any]:
    """Return the family tree without times and without the paths of the foundations."""
    data = tree_without_times(run)
    for node in data["nodes"]:
        if node["kind"] == "foundation":
            del node["checkpoint"]
    return data


def journal(run: Path) -> list[dict[str, Any]]:
    """Return the events of a journal without an incomplete last line."""
    lines = (run / "journal.jsonl").read_bytes().split(b"\n")[:-1]
    return [json.loads(line)["event"] for line in lines]


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in journal(run) if event["type"] == kind]


def forge(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the events of a journal in place, with checksums that are right."""
    path, lines = run / "journal.jsonl", []
    for line in path.read_bytes().split(b"\n")[:-1]:
        entry = json.loads(line)
        change(entry["event"])
        entry.pop("crc")
        body = json.dumps(entry).encode()[:-1]
        lines.append(body + f', "crc": "{zlib.crc32(body):08x}"}}\n'.encode())
    path.write_bytes(b"".join(lines))


def contents(folder: Path) -> dict[str, bytes | str]:
    """Return the content of each file and the target of each link in a folder, by relative path; links are kept."""
    found: dict[str, bytes | str] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = str(path.readlink())
        else:
            found[name] = path.read_bytes() if path.is_file() else "folder"
    return found


def files(run: Path) -> list[str]:
    """Return the paths of all files and folders of a run and of the score store beside it, but of no lock."""
    roots = (run, run.parent / ".scores")
    found = (path.relative_to(run.parent) for root in roots for path in root.rglob("*"))
    return sorted(str(path) for path in found if ".locks" not in path.parts)


def finished_work(run: Path) -> set[str]:
    """Return the finished work: `merge <model>`, `evaluate <model>` and `measure <a>-<b>`."""
    done = {f"merge {path.parent.name}" for path in run.glob("models/[!.]*/evolve.json")}
    done |= {f"evaluate {path.name}" for path in run.glob("evals/[!.]*")}
    if (run / "journal.jsonl").exists():
        done |= {f"measure {'-'.join(sorted((e['a'], e['b'])))}" for e in events(run, "kinship_measured")}
    return done


def forget_checksum(score: Path) -> None:
    """Remove the checksum of a score in a store, as in one of an older version, whose files may then be changed."""
    record = score / "score.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "checksum": None}))


def calls_begun(path: Path) -> Counter[str]:
    """Return how often each piece of work was begun; kinships are counted by pair."""
    found: Counter[str] = Counter()
    for line in path.read_text().splitlines() if path.exists() else []:
        kind, *subjects = line.split()
        found.update(f"{kind} {subject}" for subject in subjects)
    return found


@dataclass(frozen=True)
class Reference:
    """An uninterrupted run."""

    run: Path
    tree: dict[str, Any]
    files: list[str]
    tally: Counter[str]
    passed: dict[str, int]

    @classmethod
    def of(cls, run: Path, tally: Path, passed: dict[str, int] | None = None) -> Reference:
        return cls(run, tree_without_times(run), files(run), calls_begun(tally), passed or {})

    def check(self, run: Path, *, retries: bool = True) -> None:
        """Assert that another run has the same result and the same files."""
        ours = copy.deepcopy(self.tree)
        for node in ours["nodes"]:
            if not retries:
                node.pop("retries")
        assert tree_without_times(run, retries=retries) == ours
        assert files(run) == self.files


def environment(**extra: str | Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVOLVE_FA")}
    return {**kept, "COLUMNS": "200", **{name: str(value) for name, value in extra.items()}}


def start(*arguments: str | Path, **env: str | Path) -> subprocess.Popen[str]:
    """Start the command with fake engines as the leader of a process group."""
    return subprocess.Popen(
        [sys.executable, str(SUPPORT / "fake_evolve.py"), *map(str, arguments)],
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def session_of(leader: int) -> list[int]:
    """Return the processes of a session, which workers cannot leave."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader:
            found.append(int(path.parent.name))
    return found


def children_of(leader: int) -> list[int]:
    """Return the processes of a session without its leader."""
    return [process for process in session_of(leader) if process != leader]
