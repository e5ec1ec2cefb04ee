"""Everything that evolve raises on purpose.

```
EvolveError                     exit code 1: the work could not be done
├── InputError                  exit code 2: something the user gave is wrong
│   ├── ConfigError             a key of a configuration file
│   ├── ModelError              a model folder or hub id
│   ├── RecipeError             a merge recipe
│   ├── TaskError               a benchmark task, its metric or its data
│   └── RunFolderError          a run folder, its journal or its lock
├── MergeError                  a merge gave no usable checkpoint
├── EvaluationError             an evaluation gave no usable score
├── KinshipError                a kinship is not defined or not finite
└── RunError                    a run cannot go on; it can be resumed once the cause is mended
    └── DiskError               there is no room for what comes next
```

The message of an error is all that a user sees of it: it says what is wrong with which value of what, and how to
mend it. Whatever else reaches the top is a bug and keeps its traceback.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "DiskError",
    "EvaluationError",
    "EvolveError",
    "InputError",
    "KinshipError",
    "MergeError",
    "ModelError",
    "RecipeError",
    "RunError",
    "RunFolderError",
    "TaskError",
]


class EvolveError(Exception):
    """Root of all errors that evolve raises on purpose."""

    exit_code = 1


class InputError(EvolveError):
    """Something that the user gave is wrong; nothing was started and nothing was changed."""

    exit_code = 2


class ConfigError(InputError):
    """A key of a configuration is wrong."""


class ModelError(InputError):
    """A model folder or hub id is wrong."""


class RecipeError(InputError):
    """A merge recipe is wrong."""


class TaskError(InputError):
    """A benchmark task, its metric or its data is wrong."""


class RunFolderError(InputError):
    """A run folder, its journal or its lock is wrong."""


class MergeError(EvolveError):
    """A merge gave no usable checkpoint."""


class EvaluationError(EvolveError):
    """An evaluation gave no usable score."""


class KinshipError(EvolveError):
    """A kinship is not defined or not finite."""


class RunError(EvolveError):
    """A run cannot go on; it can be resumed once the cause is mended."""


class DiskError(RunError):
    """There is no room on the disk for what comes next."""
