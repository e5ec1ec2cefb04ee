"""Differences between the configuration of a resumed run and the recorded one, and which are accepted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from evolve.config import HUB_ARGUMENTS, METRICS, Config, path_arguments
from evolve.engines import merging
from evolve.errors import ConfigError, RecipeError
from evolve.lineage import FamilyTree, SettingsChanged
from evolve.run.child import load_template
from evolve.run.folder import RunFolder

__all__ = [
    "Change",
    "accepted_changes",
    "changes_between",
    "replaced_templates",
    "settings_changed",
    "with_recorded_recipes",
    "with_recorded_sharing",
]

# Settings that decide where and how fast the work is done, but do not affect results.
_HARMLESS = frozenset({"name", "device", "attempts", "evaluation.batch_size", "evaluation.trust_task_code"})
# Settings with paths of models and data; their content is compared.
_MODELS, _DATA = ("base_model", "foundation_models."), ("evaluation.datasets", "evaluation.task_dirs")
_ARGUMENTS = "evaluation.model_args."

Effect = Literal["none", "place", "results"]


@dataclass(frozen=True)
class Change:
    """One key whose value differs.

    Attributes:
        then: The recorded value.
        now: The new value.
        effect: `none`: no result depends on the key. `place`: a path has changed, which is accepted if the content is
            the same. `results`: results would differ, so the run cannot resume with the change.
    """

    key: str
    then: Any
    now: Any
    effect: Effect


def changes_between(then: Config, now: Config) -> list[Change]:
    """Return the changes in the order of the schema; both configurations must have absolute paths."""
    before, after = _flat(then.model_dump(mode="json")), _flat(now.model_dump(mode="json"))
    keys = list(dict.fromkeys([*before, *after]))
    return [
        Change(key, before.get(key), after.get(key), _effect(key, before, after, then.strategy.metric))
        for key in keys
        if before.get(key) != after.get(key)
    ]


def accepted_changes(tree: FamilyTree, folder: RunFolder, config: Config) -> list[Change]:
    """Return the changes of a configuration against the recorded one, if the run may resume with all of them.

    Raises:
        ConfigError: A change would alter results; the message has a table of such changes.
    """
    changes = changes_between(folder.located_config(tree.config), config)
    harmful = [change for change in changes if change.effect == "results"]
    if harmful:
        raise ConfigError(
            f"{folder.root}: holds a run of another configuration, and these changes would alter its results; give "
            f"another --run-dir, or undo them:\n{_table(harmful)}"
        )
    return changes


def with_recorded_recipes(tree: FamilyTree, folder: RunFolder, config: Config) -> Config:
    """Return a configuration with the recorded names of the recipes, if the templates are the same recipes.

    A template of evolve itself may differ between versions of evolve; the run keeps the recorded text.

    Raises:
        RecipeError: A template of the user has changed since the run began, or is missing.
    """
    recorded = tree.config.merge.recipes
    if len(recorded) != len(config.merge.recipes):
        return config
    for then, now in zip(recorded, config.merge.recipes, strict=True):
        if then == now and "/" not in now:
            continue
        if _is_same_recipe(load_template(now), merging.parse_template(then, tree.origin.recipes[then])):
            continue
        if then == now:
            raise RecipeError(
                f"merge.recipe = {now}: the template has changed since the run in {folder.root} began; restore "
                f"it, give another --run-dir, or resume with the recorded template by `evolve resume {folder.root}`"
            )
        return config  # another recipe: refused later as a changed setting
    merge = config.merge.model_copy(update={"recipe": tree.config.merge.recipe})
    return config.model_copy(update={"merge": merge})


def with_recorded_sharing(tree: FamilyTree, config: Config) -> Config:
    """Return a configuration that leaves `prefix_sharing` to its default with the recorded value.

    A run that began before evolve shared prefixes has `off`.
    """
    evaluation = config.evaluation
    if "prefix_sharing" in evaluation.model_fields_set:
        return config
    recorded = {"prefix_sharing": tree.config.evaluation.prefix_sharing}
    return config.model_copy(update={"evaluation": evaluation.model_copy(update=recorded)})


def replaced_templates(tree: FamilyTree) -> list[str]:
    """Return the recipes of the run that this version of evolve would merge in another way."""
    names = [name for name in tree.config.merge.recipes if "/" not in name and name in merging.template_names()]
    recorded = {name: merging.parse_template(name, tree.origin.recipes[name]) for name in names}
    return [name for name in names if not _is_same_recipe(load_template(name), recorded[name])]


def _is_same_recipe(one: merging.Template, other: merging.Template) -> bool:
    """Return whether two templates make the same children; comments do not count."""

    def identity(template: merging.Template) -> str:
        return merging.identity(template, ("parent 1", "parent 2"), "base model", "bfloat16", None)

    return one.text == other.text or identity(one) == identity(other)


def settings_changed(changes: list[Change], folder: RunFolder, config: Config) -> SettingsChanged:
    """Return the event of accepted changes."""
    return SettingsChanged(
        changes={change.key: (change.then, change.now) for change in changes},
        config=folder.portable_config(config).model_dump(mode="json"),
    )


def _effect(key: str, before: Mapping[str, Any], after: Mapping[str, Any], metric: str) -> Effect:
    then: Any = before.get(key)
    now: Any = after.get(key)
    if key == "strategy.max_generations":
        return "none" if int(now) > int(then) else "results"
    if key == "strategy.stop_at_kinship":
        is_later = now is None or (then is not None and METRICS[metric].is_beyond(now, then))
        return "none" if is_later else "results"
    if key.startswith(_DATA):
        return "place"
    if key.startswith(_MODELS):
        return "place" if key in before and key in after else "results"
    if key.startswith(_ARGUMENTS) and _is_moved_file(key.removeprefix(_ARGUMENTS), then, now):
        return "place"
    return "none" if key in _HARMLESS else "results"


def _is_moved_file(key: str, then: Any, now: Any) -> bool:
    """Return whether a model argument still names files, at another place; their content is compared."""
    if not isinstance(then, str) or not isinstance(now, str):
        return False
    return bool(path_arguments({key: now})) or (then.startswith("/") and key in HUB_ARGUMENTS)


def _table(changes: list[Change]) -> str:
    rows = [("key", "then", "now"), *((c.key, json.dumps(c.then), json.dumps(c.now)) for c in changes)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaf values by dotted key; a task is keyed by its name, since the order of the tasks has no effect."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if f"{prefix}{key}" == "evaluation.tasks":
            value = {item["task"]: item for item in value}  # noqa: PLW2901
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
