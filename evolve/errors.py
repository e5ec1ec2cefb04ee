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
    ├── DiskError               the disk is full, or a file reached the limit of its size
    ├── InputsChangedError      a file that the run reads has changed since the run began
    └── OutOfMemoryError        the host or the device is too small for a call
```

The user sees only the message of such an error. It says which value of which file or key is wrong, and how to fix it.
Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import re

__all__ = [
    "ConfigError",
    "DiskError",
    "EvaluationError",
    "EvolveError",
    "InputError",
    "InputsChangedError",
    "KinshipError",
    "MergeError",
    "ModelError",
    "OutOfMemoryError",
    "RecipeError",
    "RehearsalError",
    "RunError",
    "RunFolderError",
    "TaskError",
    "full_disk",
    "make_room",
    "unreadable",
]

_FULL_DISK = {
    errno.ENOSPC: ("no space left on device", "disk is full"),
    errno.EDQUOT: ("disk quota exceeded",),
    errno.EFBIG: ("file too large",),
}
"""Error numbers of a full disk, an exhausted quota and a file size limit, and the messages of libraries about them."""


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
    """The disk is full, or a file reached the limit of its size."""


class InputsChangedError(RunError):
    """A file that the run reads has changed since the run began."""


class OutOfMemoryError(RunError):
    """The memory of the host or of the device was too small for a call."""


def unreadable(error: OSError) -> str:
    """Return the message about a file or folder that cannot be read.

    An error of `evolve.files` has no number; it says itself what is wrong with the file.
    """
    if error.errno is None:
        return f"{error}; give another file"
    return f"{error.filename}: cannot be read ({error.strerror}); make it readable"


def full_disk(error: BaseException) -> int | None:
    """Return the error number of a full disk, an exhausted quota or a file size limit; None for any other error.

    An OSError has the number. safetensors, SQLite and Arrow give only a message.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is not None:
        return number if number in _FULL_DISK else None
    if isinstance(error, EvolveError):
        return None
    words = str(error).lower()
    found = re.search(r"os error (\d+)", words)
    if found is not None:
        return int(found[1]) if int(found[1]) in _FULL_DISK else None
    return next((number for number, phrases in _FULL_DISK.items() if any(p in words for p in phrases)), None)


def make_room(number: int | None) -> str:
    """Return what the user has to do after an error with a number from `full_disk`."""
    return "raise the limit of the file size (`ulimit -f`)" if number == errno.EFBIG else "make room"
