"""The command `evolve` forked from a process that has loaded the engines, which takes seconds in each new process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

REPOSITORY = Path(__file__).parents[2]
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


class Server:
    """A client of `server.py`.

    Args:
        engines: Real or fake engines.
        environment: Variables of its environment; libraries read some of them only while they are imported.
    """

    def __init__(self, engines: Literal["real", "fake"], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("server.py")), engines],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """Run a command; `server.py` describes the order and the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the server."""
        self._process.communicate()


class ServedEvolve:
    """Calls the command with its real engines, whose calls run in the process of the command instead of a worker.

    Args:
        variables: Further variables of the environment.
    """

    def __init__(self, **variables: str) -> None:
        self._variables = variables
        self._server: Server | None = None

    def __call__(
        self, *arguments: str | Path, cwd: Path | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run the command with the present environment of the test."""
        present = os.environ | OFFLINE | self._variables
        if self._server is None:
            paths = os.pathsep.join(filter(None, [str(REPOSITORY), present.get("PYTHONPATH")]))
            kept = {name: value for name, value in present.items() if not name.startswith("EVOLVE_FA")}
            self._server = Server("real", kept | {"PYTHONPATH": paths})
        strings = [str(argument) for argument in arguments]
        order = {"arguments": strings, "cwd": str(cwd or Path.cwd()), "env": present, "seconds": timeout}
        ended = self._server.ask(order | {"limits": {}, "hooks": {}})
        if ended["code"] is None:
            raise subprocess.TimeoutExpired(strings, timeout, ended["out"], ended["err"])
        return subprocess.CompletedProcess(strings, ended["code"], ended["out"], ended["err"])

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            self._server.close()
