"""The command `evolve` in a process forked from one that has loaded its modules: `python server.py real|fake`.

A line of standard input is a JSON object: `arguments`, `cwd`, `env`, `limits` (soft resource limits by name), `hooks`
(see `_hooked`) and `seconds`. The answer is a JSON object: `code` (negative: the signal; null:
killed after that many seconds), `out` and `err`. The calls run in the forked process instead of a worker.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

_MEMORY = 2**31
"""The most bytes that a command may take, so that a file that takes all memory does not harm the machine."""


def _load(*, real: bool) -> None:
    """Import all that a command imports, so that the forked processes start fast."""
    import fake_evolve  # noqa: F401

    from evolve.cli import app, building, driving, looking, measuring  # noqa: F401

    if real:
        _load_engines()


def _load_engines() -> None:
    import datasets  # noqa: F401
    import mergekit.merge
    import mergekit.plan  # noqa: F401
    import peft  # noqa: F401
    import torch
    from lm_eval import evaluator  # noqa: F401
    from lm_eval.models import api_models, huggingface  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401
    from transformers.models.llama import modeling_llama  # noqa: F401

    torch.set_num_threads(1)


def _answer(order: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            _call(order)
        code = _wait(child, order["seconds"])
        texts = {}
        for name, file in (("out", out), ("err", err)):
            file.seek(0)
            texts[name] = file.read().decode(errors="replace")
    return {"code": code, **texts}


def _wait(child: int, seconds: float) -> int | None:
    """Return the exit code of a process; None if it had to be killed after some seconds."""
    end, killed = time.monotonic() + seconds, False
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return None if killed else os.waitstatus_to_exitcode(status)
        if time.monotonic() > end and not killed:
            killed = True
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.01)


def _call(order: dict[str, Any]) -> None:
    """Run the command in this process and exit."""
    code = 70
    try:
        os.environ.update(order["env"])
        os.chdir(order["cwd"])
        tempfile.tempdir = None
        logging.getLogger().addHandler(logging.NullHandler())  # a worker logs to a file
        _prepare(order)
        from evolve.cli import main

        sys.argv = ["evolve", *order["arguments"]]
        for name, limit in ({"AS": _memory() + _MEMORY} | order["limits"]).items():
            kind = getattr(resource, f"RLIMIT_{name}")
            resource.setrlimit(kind, (limit, resource.getrlimit(kind)[1]))
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - the test shows the error
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 71
    os._exit(code)


def _memory() -> int:
    """Return the size of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _prepare(order: dict[str, Any]) -> None:
    from executors import InlineExecutor
    from fakes import FAKE

    from evolve.cli import driving, measuring
    from evolve.engines import REAL
    from evolve.run.session import Session

    engines = REAL if sys.argv[1] == "real" else FAKE
    for name, (nth, script) in order["hooks"].items():
        engines = replace(engines, **{name: _hooked(getattr(engines, name), nth, script)})
    driving.REAL = engines
    driving.Session = partial(Session, executors=InlineExecutor)  # type: ignore[misc]
    measuring.LocalExecutor = InlineExecutor  # type: ignore[misc]


def _hooked(engine: Callable[..., Any], nth: int, script: str) -> Callable[..., Any]:
    """Return an engine that runs a shell script before its n-th call."""
    calls = count(1)

    def call(*arguments: Any, **more: Any) -> Any:
        if next(calls) == nth:
            subprocess.run(["/bin/sh", "-c", script], check=True)
        return engine(*arguments, **more)

    return call


def main() -> None:
    """Answer the orders until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _load(real=sys.argv[1] == "real")
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
