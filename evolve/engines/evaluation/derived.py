"""Data that Python makes of other data: made anew by each job, because `datasets` does not know what that Python reads.

`datasets` keeps the outcome of `map`, `filter` and `from_generator` on disk, keyed by the code and its data. A function
that reads a file would not be called again after a change of that file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from evolve.engines.evaluation.reads import GENERATED

__all__ = ["derived_data"]


@contextmanager
def derived_data() -> Iterator[None]:
    """Let `datasets` keep derived data in a temporary folder that ends with this block."""
    import datasets

    place, generate = datasets.Dataset._get_cache_file_path, datasets.Dataset.from_generator  # noqa: SLF001

    with tempfile.TemporaryDirectory(prefix=GENERATED, ignore_cleanup_errors=True) as folder:

        def file_of(data: Any, fingerprint: str) -> str:
            return str(Path(folder) / Path(place(data, fingerprint)).name)

        def generated(*arguments: Any, **options: Any) -> Any:
            return generate(*arguments, **{"cache_dir": folder, **options})

        with (
            mock.patch.object(datasets.Dataset, "_get_cache_file_path", file_of),
            mock.patch.object(datasets.Dataset, "from_generator", staticmethod(generated)),
        ):
            yield
