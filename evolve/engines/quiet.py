"""Silence for transformers while it loads models, and the errors that it raises if it cannot load one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["loading_errors", "quiet_transformers"]


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide the progress bars and warnings of transformers; restore its settings afterwards. Imports transformers."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def loading_errors() -> tuple[type[Exception], ...]:
    """Return the errors of a checkpoint that cannot be loaded; other exceptions are bugs. Imports safetensors."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    return (
        *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError),
        *(ValueError, SafetensorError, StrictDataclassError),
    )
