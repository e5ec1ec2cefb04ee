"""Translation of failures in mergekit, transformers and safetensors into errors of evolve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from evolve.errors import MergeError, ModelError, full_disk

__all__ = ["check_absolute", "failures"]


def check_absolute(folders: Sequence[Path]) -> None:
    """Raise MergeError unless all models are absolute paths of folders; mergekit looks for others on the Hub."""
    for folder in folders:
        if not folder.is_absolute() or not folder.is_dir():
            raise MergeError(f"the recipe refers to {folder}, which is not the absolute path of a folder")


@contextmanager
def failures(what: str) -> Iterator[None]:
    """Turn the exceptions by which the libraries refuse their work into `MergeError`.

    They raise RuntimeError for unsupported requests; ValueError (also pydantic's), TypeError and ArithmeticError for
    tensors and configurations that do not fit; AssertionError, IndexError and KeyError for tokens or tensors that are
    missing; OSError and SafetensorError for files; ImportError where a package is missing. Other exceptions are bugs. A
    full disk passes through as OSError, and a full device unchanged.

    Args:
        what: The work, for the beginning of the message.
    """
    import torch
    from safetensors import SafetensorError

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (MergeError, ModelError) as error:
        raise MergeError(f"{what}: {error}") from error
    except (
        ArithmeticError,
        AssertionError,
        ImportError,
        LookupError,
        OSError,
        RuntimeError,
        SafetensorError,
        TypeError,
        ValueError,
    ) as error:
        number = full_disk(error)
        if number is not None:
            raise OSError(number, f"{what}: {error}") from error
        kind = f"{type(error).__name__} " if isinstance(error, LookupError) else ""
        words = " ".join(str(error).split()) or type(error).__name__
        raise MergeError(f"{what}: {kind}{words}") from error
