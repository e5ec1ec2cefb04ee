"""The exceptions that evolve raises on purpose.

```
EvolveError                     exit code 1: the work could not be done
├── InputError                  exit code 2: an input of the user is wrong
│   ├── ConfigError             a key of a configuration file
│   ├── ModelError              a model folder or Hub id
│   ├── RecipeError             a merge recipe
│   ├── TaskError               a benchmark task, its metric or its data
│   └── RunFolderError          a run folder, its journal or its lock
├── MergeError                  a merge produced no usable checkpoint
├── EvaluationError             an evaluation produced no usable score
│   └── RehearsalError          it failed on the first documents
├── KinshipError                a kinship is undefined or not finite
└── RunError                    a run cannot continue; it can be resumed when the cause is fixed
    ├── DiskError               the disk is full
    └── OutOfMemoryError        the host or the device is too small for a call
```

The user sees only the message of such an error. It says which value of which file or key is wrong, and how to fix it.
Any other exception is a bug and keeps its traceback.
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
    "OutOfMemoryError",
    "RecipeError",
    "RehearsalError",
    "RunError",
    "RunFolderError",
    "TaskError",
    "unreadable",
]


class EvolveError(Exception):
    """Base class of all errors that evolve raises on purpose."""

    exit_code = 1


class InputError(EvolveError):
    """An input of the user is wrong; nothing was started or changed."""

    exit_code = 2


class ConfigError(InputError):
    """A key of a configuration is wrong."""


class ModelError(InputError):
    """A model folder or Hub id is wrong."""


class RecipeError(InputError):
    """A merge recipe is wrong."""


class TaskError(InputError):
    """A benchmark task, its metric or its data is wrong."""


class RunFolderError(InputError):
    """A run folder, its journal or its lock is wrong."""


class MergeError(EvolveError):
    """A merge produced no usable checkpoint."""


class EvaluationError(EvolveError):
    """An evaluation produced no usable score."""


class RehearsalError(EvaluationError):
    """The rehearsal of an evaluation failed, because of the model or of a setting.

    Attributes:
        setting: Key and value of the setting that is wrong if the rehearsal of every model fails in the same way; None
            if the model is wrong in any case.
    """

    def __init__(self, words: str, setting: str | None = None) -> None:
        super().__init__(words)
        self.setting = setting


class KinshipError(EvolveError):
    """A kinship is undefined or not finite."""


class RunError(EvolveError):
    """A run cannot continue; it can be resumed when the cause is fixed."""


class DiskError(RunError):
    """The disk is full."""


class OutOfMemoryError(RunError):
    """The memory of the host or of the device was too small for a call."""


def unreadable(error: OSError) -> str:
    """Return the message about a file or folder that the system does not let evolve read."""
    return f"{error.filename}: cannot be read ({error.strerror}); make it readable"
