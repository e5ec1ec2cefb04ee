"""Every key of the configuration with its meaning, valid values and default, read from the schema."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from evolve.config.schema import Config

__all__ = ["Setting", "reference_table", "settings"]


@dataclass(frozen=True)
class Setting:
    """One key of the configuration.

    Attributes:
        section: The keys above it, joined by dots, with `<n>` for a position in a list and `<name>` for a free name;
            empty at the top level.
        name: The last part of the key.
        meaning: What it does: sentences in Markdown.
        values: The valid values, as the end of a sentence that begins with "it must be".
        default: The default as YAML; None if the key is required.
    """

    section: str
    name: str
    meaning: str
    values: str
    default: str | None

    @property
    def key(self) -> str:
        """The complete key, joined by dots."""
        return f"{self.section}.{self.name}" if self.section else self.name


def settings(model: type[BaseModel] = Config, section: str = "") -> Iterator[Setting]:
    """Yield every key of a section, each section before the sections inside it."""
    inner: list[tuple[type[BaseModel], str]] = []
    for name, field in model.model_fields.items():
        setting = Setting(section, name, field.title or "", field.description or "", _default(field))
        yield setting
        inner += [(found, setting.key + step) for found, step in _sections_in(field.annotation)]
    for found, key in inner:
        yield from settings(found, key)


def reference_table() -> str:
    """Return all keys as Markdown, one table for each section."""
    parts = []
    for section, group in groupby(settings(), key=lambda setting: setting.section):
        heading = f"`{section}`" if section else "Top level"
        head = [f"### {heading}", "", "| key | default | value | meaning |", "|---|---|---|---|"]
        parts.append("\n".join([*head, *map(_row, group)]))
    return "\n\n".join(parts) + "\n"


def _sections_in(annotation: Any) -> list[tuple[type[BaseModel], str]]:
    """Return the sections inside a type, each with what follows the key: nothing, `.<n>` or `.<name>`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [(annotation, "")]
    steps: dict[Any, str] = {dict: ".<name>", tuple: ".<n>"}
    step = steps.get(get_origin(annotation), "")
    return [(found, step + rest) for part in get_args(annotation) for found, rest in _sections_in(part)]


def _default(field: FieldInfo) -> str | None:
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        return ""
    many = isinstance(value, tuple)
    data = [_plain(item) for item in value] if many else value
    text: str = yaml.safe_dump(data, default_flow_style=True, width=float("inf"), sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json", exclude_unset=True) if isinstance(value, BaseModel) else value


def _row(setting: Setting) -> str:
    values = setting.values.replace("<", "&lt;")  # Markdown would take <split> for HTML
    cells = (f"`{setting.name}`", _shown(setting.default), values, setting.meaning)
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _shown(default: str | None) -> str:
    if default is None:
        return "required"
    return f"`{default}`" if default else "see below"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
