"""Rules that several keys of the configuration share: names, values that JSON can hold, and errors of one key."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

__all__ = ["Arguments", "ChildName", "ModelName", "Name", "Section", "TaskName", "error_at"]

# mergekit reads `+` and `@` in a model's path as an adapter and a revision, and a name becomes a folder.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CHILD_NAME = re.compile(r"model-\d+-(\d+|exp(-\d+)?)")
_MOST_CHARACTERS = 100  # names are joined to names of files, which may have 255 bytes
_MOST_TASK_BYTES = 200
_MOST_NUMBER = 2**31 - 1


def _check_name(name: str) -> str:
    if len(name) > _MOST_CHARACTERS:
        raise ValueError(f"a name has at most {_MOST_CHARACTERS} characters, and this one has {len(name)}; shorten it")
    if not _NAME.fullmatch(name) or ".." in name:
        raise ValueError(
            "a name has letters, digits, '-', '_' and single '.', and begins with a letter or a digit; rename it"
        )
    return name


def _check_model_name(name: str) -> str:
    if name == "base_model":
        raise ValueError("base_model is the name of the base model; rename it")
    if _CHILD_NAME.fullmatch(_check_name(name)):
        raise ValueError("names of the form model-<generation>-<n> are reserved for children; rename it")
    return name


def _check_child_name(name: str) -> str:
    if not _CHILD_NAME.fullmatch(_check_name(name)):
        raise ValueError("a child has a name of the form model-<generation>-<n>")
    return name


def _check_task_name(name: str) -> str:
    """Refuse a name that cannot be the name of a folder; a slash in it becomes an underscore."""
    if not name.isprintable() or ".." in name or name.startswith((".", "/")) or len(name.encode()) > _MOST_TASK_BYTES:
        raise ValueError(
            f"a task has a name of at most {_MOST_TASK_BYTES} printable characters that does not begin with '.' or '/' "
            "and has no '..'; rename the task"
        )
    return name


def _check_plain(value: Any) -> Any:
    """Refuse values that JSON cannot hold, because the journal keeps the configuration as JSON."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("its keys must be strings; put them in quotes")
        return {key: _check_plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_check_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("its numbers must be finite; give a finite number, or null")
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"YAML reads {value} as a {type(value).__name__}; put it in quotes")
    return value


def error_at(key: str, value: Any, reason: str) -> PydanticCustomError:
    """Return the error of one key, for a check that looks at several keys.

    Args:
        key: The wrong key, relative to the section that is checked.
        value: Its value.
        reason: What is wrong and how to fix it.
    """
    return PydanticCustomError("several_keys", "{key}: {reason}", {"key": key, "value": value, "reason": reason})


def _overflows(value: Any) -> bool:
    return isinstance(value, int) and abs(value) > _MOST_NUMBER


Name = Annotated[str, AfterValidator(_check_name)]
ChildName = Annotated[str, AfterValidator(_check_child_name)]
ModelName = Annotated[str, AfterValidator(_check_model_name)]
TaskName = Annotated[str, AfterValidator(_check_task_name)]
Arguments = Annotated[dict[str, Any], AfterValidator(_check_plain)]


class Section(BaseModel):
    """A frozen section of the configuration; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_odd_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse `limit: true`, which pydantic would read as 1, and numbers that overflow in the engines."""
        field = cls.model_fields[info.field_name or ""]
        is_wrong = field.annotation not in {bool, bool | None} if isinstance(value, bool) else _overflows(value)
        if is_wrong:
            raise ValueError(f"it must be {field.description}")
        return value
