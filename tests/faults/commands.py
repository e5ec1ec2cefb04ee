"""The command as the rows call it: forked from a process with loaded engines, or in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.served import Server

if TYPE_CHECKING:
    from tests.faults.table import Place, Step

FAKE_EVOLVE = Path(__file__).parents[1] / "support" / "fake_evolve.py"
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    """The end of a command; `code` is None if it was killed because it took too long."""

    code: int | None
    out: str
    err: str


class Commands:
    """Starts commands; with one server for each kind of engines.

    Args:
        cache: A folder for the caches of evolve and of the data sets.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._servers: dict[str, Server] = {}

    def __call__(self, place: Place, step: Step) -> Ended:
        if step.process or step.shell:
            return self._in_process(place, step)
        order = {
            "arguments": [place.named(argument) for argument in step.arguments],
            "cwd": str(place.root / step.cwd),
            "env": self._varied(place, step),
            "limits": dict(step.limits),
            "hooks": {name: (nth, place.named(script)) for name, (nth, script) in step.hooks.items()},
            "seconds": step.seconds,
        }
        server = self._servers[step.engines] = self._servers.get(step.engines) or Server(
            step.engines, self.environment()
        )
        return Ended(**server.ask(order))

    def environment(self) -> dict[str, str]:
        """Return the environment of a command: offline, one thread, caches of the tests."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EVOLVE_FA")}
        path = os.pathsep.join(filter(None, [str(REPOSITORY), kept.get("PYTHONPATH")]))
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        caches = {"HF_DATASETS_CACHE": str(self._cache / "datasets"), "PYTHONPATH": path}
        return kept | offline | caches | {"COLUMNS": "200"}

    def _varied(self, place: Place, step: Step) -> dict[str, str]:
        temporary = place.root / "temporary"
        temporary.mkdir(exist_ok=True)
        own = {"TMPDIR": str(temporary), "EVOLVE_CACHE_DIR": str(self._cache / "evolve")}
        return own | {name: place.named(value) for name, value in step.env.items()}

    def _in_process(self, place: Place, step: Step) -> Ended:
        program = [str(FAKE_EVOLVE)] if step.engines == "fake" else ["-m", "evolve"]
        command = [sys.executable, *program, *map(place.named, step.arguments)]
        environment = self.environment() | self._varied(place, step)
        if step.shell:
            environment["EVOLVE"] = " ".join([sys.executable, *program])
            command = ["/bin/bash", "-c", place.named(step.shell)]
        process = subprocess.Popen(
            command,
            cwd=place.root / step.cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=step.seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return Ended(None, *process.communicate())
        return Ended(process.returncode, out, err)

    def close(self) -> None:
        """End the servers."""
        for server in self._servers.values():
            server.close()
