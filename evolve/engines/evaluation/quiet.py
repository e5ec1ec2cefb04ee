"""Keeps lm-eval's progress bars, prints and logs off the terminal, and caches what it would compute repeatedly."""

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

from evolve.engines.evaluation.derived import derived_data

__all__ = ["quiet"]

_LOUD = ("lm_eval", "transformers", "datasets")
_log = logging.getLogger("evolve.engines.evaluation")

_ENVIRONMENT = {
    # lm-eval's command sets it too. Without it, a fork after the first use of a tokenizer prints a warning.
    "TOKENIZERS_PARALLELISM": "false",
    # Without it, bootstrapped standard errors fork one process per core from a process that may use CUDA.
    "DISABLE_MULTIPROC": "1",
}


@contextlib.contextmanager
def quiet(*, evaluating: bool) -> Iterator[None]:
    """Send what lm-eval and its libraries print or log to the logger `evolve.engines.evaluation`, one level lower.

    `datasets` tells its server nothing: it would count each load there, also of a local file, and a task that asks a
    server is not shared.

    Information becomes debug, and warnings become information, as they are about settings that a run makes on purpose.

    Args:
        evaluating: Whether the block uses lm-eval's evaluator; it and torch are then imported.
    """
    import datasets

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, _ENVIRONMENT))
        stack.enter_context(mock.patch.object(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False))  # noqa: FBT003
        stack.enter_context(contextlib.redirect_stdout(_Lines(sys.stdout)))
        stack.enter_context(contextlib.redirect_stderr(_Lines(sys.stderr)))
        for name in _LOUD:
            stack.enter_context(_forwarded(logging.getLogger(name)))
        stack.enter_context(_cached_work(evaluating=evaluating))
        stack.enter_context(derived_data())
        yield


class _Lines(io.TextIOBase):
    """A stream that logs each line written to it; of a progress bar only the last state."""

    def __init__(self, original: TextIO) -> None:
        self._original = original
        self._rest = ""
        self._busy = False

    def write(self, text: str) -> int:
        if self._busy:
            # A handler of the logger writes to `sys.stderr`, which is this object.
            return self._original.write(text)
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
            self._original.flush()


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
def _cached_work(*, evaluating: bool) -> Iterator[None]:
    """Cache what lm-eval computes repeatedly with the same result.

    It compiles a task's template for each document and example (0.5 ms each, 8 s for GSM8K with five shots), and
    collects information about the environment at each call (0.7 s). `git describe` is replaced by lm-eval's own
    function for machines without git, as its process prints an error where the working directory is not a repository.
    """
    import lm_eval.utils

    templates = lm_eval.utils.env
    with contextlib.ExitStack() as stack:
        compiled = functools.lru_cache(maxsize=1000)(templates.from_string)
        stack.enter_context(mock.patch.object(templates, "from_string", compiled))
        if evaluating:
            import lm_eval.evaluator
            import torch.utils.collect_env as environment

            described = _cached(environment.get_pretty_env_info)
            stack.enter_context(mock.patch.object(environment, "get_pretty_env_info", described))
            stack.enter_context(mock.patch.object(lm_eval.evaluator, "get_git_commit_hash", _commit))
        yield


@functools.cache
def _cached(describe: Callable[[], str]) -> Callable[[], str]:
    """Return the same caching function in every evaluation of this process."""
    return functools.cache(describe)


def _commit() -> str | None:
    from lm_eval.loggers.utils import get_commit_from_path

    commit: str | None = get_commit_from_path(Path.cwd())
    return commit
