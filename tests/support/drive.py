"""Drivers for tests that kill them: a server forks one for each line that it reads, so that each starts fast.

A line is a JSON object with `env`, and either with `config` (null to resume), `run`, `capacity` and `seed` for a driver
without a worker, or with `arguments` for the command. The answer is a JSON object with `code` (negative: the signal),
for a driver also `message`, `worked` and `passed` (the fault points passed), for a command also `out` and `err`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ended:
    """The end of a driver; `code` is the exit code of the process, negative for a signal."""

    code: int
    message: str
    passed: dict[str, int]
    worked: bool | None


class Drivers:
    """A client of the server."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(
        self, run: Path, config: Path | None = None, *, capacity: int = 1, seed: int = 0, **env: str | Path
    ) -> Ended:
        order = {
            "config": config and str(config),
            "run": str(run),
            "capacity": capacity,
            "seed": seed,
            "env": {name: str(value) for name, value in env.items()},
        }
        return Ended(**self._ask(order))

    def command(self, *arguments: str | Path, **env: str | Path) -> subprocess.CompletedProcess[str]:
        """Run the command `evolve` with the fake engines and with workers."""
        strings = [str(argument) for argument in arguments]
        answer = self._ask({"arguments": strings, "env": {name: str(value) for name, value in env.items()}})
        return subprocess.CompletedProcess(strings, answer["code"], answer["out"], answer["err"])

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate()


def _drive(order: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    from executors import InlineExecutor, ShuffledExecutor
    from fakes import FAKE

    from evolve.config import load_config
    from evolve.errors import EvolveError
    from evolve.run import faults
    from evolve.run.executors import Progress
    from evolve.run.observer import Silent
    from evolve.run.session import Session

    def executor(progress: Progress, device: str) -> InlineExecutor:
        if order["capacity"] == 1:
            return InlineExecutor(progress, device)
        return ShuffledExecutor(progress, order["capacity"], order["seed"])

    os.environ.update(order["env"])
    session, run = Session(FAKE, Silent(), executors=executor), Path(order["run"])
    try:
        done = session.run(load_config(Path(order["config"])), run) if order["config"] else session.resume(run)
    except EvolveError as error:
        return error.exit_code, {"message": str(error), "passed": dict(faults.passed), "worked": None}
    except Exception:  # noqa: BLE001 - the test shows the error
        return 70, {"message": traceback.format_exc(), "passed": {}, "worked": None}
    return 0, {"message": str(done.stop.reason), "passed": dict(faults.passed), "worked": done.worked}


def _fork(order: dict[str, Any]) -> dict[str, Any]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        code, answer = _drive(order)
        with os.fdopen(writer, "w") as file:
            json.dump(answer, file)
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as file:
        answer = json.loads(file.read() or '{"message": "", "passed": {}, "worked": null}')
    _, status = os.waitpid(child, 0)
    return {"code": os.waitstatus_to_exitcode(status), **answer}


def _command(order: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            _call(order)
        _, status = os.waitpid(child, 0)
        outputs = {}
        for name, file in (("out", out), ("err", err)):
            file.seek(0)
            outputs[name] = file.read().decode()
    return {"code": os.waitstatus_to_exitcode(status), **outputs}


def _call(order: dict[str, Any]) -> None:
    """Run the command in this process and exit."""
    import fake_evolve

    code = 0
    os.environ.update({"COLUMNS": "200"} | order["env"])
    sys.argv = ["evolve", *order["arguments"]]
    try:
        fake_evolve.main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    except BaseException:  # noqa: BLE001 - the test shows the error
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _serve() -> None:
    import fake_evolve  # noqa: F401

    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(_command(order) if "arguments" in order else _fork(order)), flush=True)


if __name__ == "__main__":
    _serve()
