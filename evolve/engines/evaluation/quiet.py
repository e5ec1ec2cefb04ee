"""Keeps lm-eval's bars, prints and logs off the terminal, and spares it what it would do again and again."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO
from unittest import mock

__all__ = ["quiet"]

_LOUD = ("lm_eval", "transformers", "datasets")
_log = logging.getLogger("evolve.engines.evaluation")

_ENVIRONMENT = {
    # As lm-eval's own command sets it; without, a fork after the first use of a tokenizer warns.
    "TOKENIZERS_PARALLELISM": "false",
    # Else bootstrapped standard errors fork one process per core out of a process that may hold a CUDA context.
    "DISABLE_MULTIPROC": "1",
}


@contextlib.contextmanager
def quiet(*, evaluating: bool) -> Iterator[None]:
    """Sends what lm-eval and its libraries print or log to the logger `evolve.engines.evaluation`, one level down.

    Their information becomes debug, their warnings information: they speak of what a run decides on purpose.

    Args:
        evaluating: Whether lm-eval's evaluator is used within; it and torch are imported then.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, _ENVIRONMENT))
        stack.enter_context(contextlib.redirect_stdout(_Lines(sys.stdout)))
        stack.enter_context(contextlib.redirect_stderr(_Lines(sys.stderr)))
        for name in _LOUD:
            stack.enter_context(_forwarded(logging.getLogger(name)))
        stack.enter_context(_spared_work(evaluating=evaluating))
        yield


class _Lines(io.TextIOBase):
    """Logs each line that is written to it; of a progress bar the last state."""

    def __init__(self, behind: TextIO) -> None:
        self._behind = behind
        self._rest = ""
        self._busy = False

    def write(self, text: str) -> int:
        if self._busy:
            # A handler of the logger resolves `sys.stderr` when it writes: that is this object.
            return self._behind.write(text)
        *lines, self._rest = (self._rest + text).split("\n")
        self._rest = self._rest.rpartition("\r")[2]
        self._busy = True
        try:
            for line in lines:
                if shown := line.rpartition("\r")[2].strip():
                    _log.debug("%s", shown)
        finally:
            self._busy = False
        return len(text)

    def flush(self) -> None:
        if self._busy:
            self._behind.flush()


class _Forward(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        level = logging.DEBUG if record.levelno < logging.WARNING else record.levelno - 10
        _log.log(level, "%s: %s", record.name.partition(".")[0], record.getMessage())


@contextlib.contextmanager
def _forwarded(logger: logging.Logger) -> Iterator[None]:
    before = logger.handlers[:], logger.propagate
    logger.handlers[:], logger.propagate = [_Forward()], False
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = before


@contextlib.contextmanager
def _spared_work(*, evaluating: bool) -> Iterator[None]:
    """Remembers what lm-eval asks for again and again and what never changes.

    It compiles a task's template anew for each document and example (0.5 ms each, 8 s for GSM8K with five shots), and
    describes the environment after each call (0.7 s). `git describe` is replaced by lm-eval's own way without git: it
    starts a process, which complains on the terminal where the working directory is no repository.
    """
    import lm_eval.utils

    templates = lm_eval.utils.env
    with contextlib.ExitStack() as stack:
        compiled = functools.lru_cache(maxsize=1000)(templates.from_string)
        stack.enter_context(mock.patch.object(templates, "from_string", compiled))
        if evaluating:
            import lm_eval.evaluator
            import torch.utils.collect_env as environment

            described = _remembered(environment.get_pretty_env_info)
            stack.enter_context(mock.patch.object(environment, "get_pretty_env_info", described))
            stack.enter_context(mock.patch.object(lm_eval.evaluator, "get_git_commit_hash", _commit))
        yield


@functools.cache
def _remembered(describe: Callable[[], str]) -> Callable[[], str]:
    """The same remembering function in every evaluation of this process."""
    return functools.cache(describe)


def _commit() -> str | None:
    from lm_eval.loggers.utils import get_commit_from_path

    commit: str | None = get_commit_from_path(Path.cwd())
    return commit
