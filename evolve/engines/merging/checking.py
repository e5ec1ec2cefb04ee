"""Check a recipe before any work starts.

mergekit's parser silently ignores unknown keys at every level: with a misspelt `parameters` or `densty` it merges by
its defaults. Here every key is compared with mergekit's own models, the method with its registry, and the parameters
with those that the method declares.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from functools import reduce
from operator import or_
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from evolve.engines.merging._content import parse_recipe
from evolve.errors import RecipeError
from evolve.files import shown

if TYPE_CHECKING:
    from mergekit.config import MergeConfiguration

__all__ = ["check_recipe"]

_WEIGHT = "weight"
_MOST_WEIGHT = 1e6
_MOST = 10**9
_MOST_LAYERS = 10_000
_MOST_PADDING = 1 << 16


def check_recipe(text: str) -> None:
    """Make sure that mergekit understands all of a complete recipe. Imports mergekit, which takes seconds.

    Raises:
        RecipeError: The text is not YAML, a key or the method is unknown, a parameter is unknown to the method, is
            missing or has a value of a wrong type, the models do not fit the method, or no dtype is set.
    """
    from mergekit.config import MergeConfiguration

    try:
        content = parse_recipe(text)
    except RecipeError as error:
        raise RecipeError(f"the recipe: {error}") from None
    _check_keys(content, MergeConfiguration, "")
    try:
        # mergekit's validators raise RuntimeError as well as pydantic's ValidationError, a ValueError
        configuration = MergeConfiguration.model_validate(content)
    except (RuntimeError, ValueError, TypeError) as error:
        raise RecipeError(f"mergekit does not accept the recipe: {_reason(error)}") from error
    _check_models(configuration)
    _check_sizes(configuration)
    _check_method(configuration, content)
    # Without one, mergekit promotes: bfloat16 and float16 parents give float32 tensors
    if configuration.dtype is None and configuration.out_dtype is None:
        raise RecipeError(
            "the recipe sets no dtype: add `dtype: {{ dtype }}`, or the type of the child would depend on its parents"
        )


def _reason(error: Exception) -> str:
    """Return the reason of an error on one line; of pydantic's, the first place and what it must be."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place} = {shown(first['input'])}: {first['msg']}".removeprefix(" = ")


# ------------------------------------------------------------------------------------------------------------ keys


def _check_keys(value: Any, annotation: Any, where: str) -> None:
    """Refuse every mapping key in `value` for which the annotated types have no field."""
    if isinstance(value, list):
        item = _argument(annotation, (list, tuple), 0)
        for number, entry in enumerate(value):
            _check_keys(entry, item, f"{where}[{number}]")
    elif isinstance(value, Mapping):
        model = _best_model(annotation, value)
        if model is not None:
            for key, entry in value.items():
                if key not in model.model_fields:
                    raise RecipeError(_unknown("key", key, model.model_fields, where))
                _check_keys(entry, model.model_fields[key].annotation, f"{where}.{key}".lstrip("."))
        else:
            entry_type = _argument(annotation, (dict,), 1)
            for key, entry in value.items():
                _check_keys(entry, entry_type, f"{where}.{key}".lstrip("."))


def _flat(annotation: Any) -> Iterator[Any]:
    """Yield the members of a union, or the annotation itself."""
    if get_origin(annotation) in {Union, UnionType}:
        for member in get_args(annotation):
            yield from _flat(member)
    else:
        yield annotation


def _argument(annotation: Any, origins: tuple[type, ...], index: int) -> Any:
    """Return the union of the types of a container's items, over all members of a union."""
    found = [get_args(member)[index] for member in _flat(annotation) if get_origin(member) in origins]
    return reduce(or_, found) if found else Any


def _best_model(annotation: Any, value: Mapping[Any, Any]) -> Any:
    """Return the pydantic model of a union that has most of the keys."""
    models = [member for member in _flat(annotation) if isinstance(member, type) and issubclass(member, BaseModel)]
    return max(models, key=lambda model: len(model.model_fields.keys() & value.keys()), default=None)


def _unknown(what: str, name: Any, known: Collection[str], where: str) -> str:
    near = get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
    return f"the recipe has an unknown {what} {name!r}{f' in {where}' if where else ''}; {hint}"


# ---------------------------------------------------------------------------------------------- models and methods


def _check_models(configuration: MergeConfiguration) -> None:
    for model in configuration.referenced_models():
        if model.lora is not None:
            raise RecipeError(
                f"{model} is a model with a LoRA, which is not supported: merge the adapter into its model first, or "
                "write {model: {path: ...}} if `+` belongs to the path"
            )


def _check_sizes(configuration: MergeConfiguration) -> None:
    """Refuse layers and rows without number, which mergekit would list one by one."""
    for part in (configuration, *(configuration.modules or {}).values()):
        for output in part.slices or ():
            for source in output.sources:
                first, last = source.layer_range
                if not 0 <= first < last <= _MOST_LAYERS:
                    raise RecipeError(
                        f"the recipe has the layer_range [{shown(first)}, {shown(last)}]: give the first layer, from "
                        f"0, and the layer behind the last, at most {_MOST_LAYERS}"
                    )
    rows = configuration.tokenizer.pad_to_multiple_of if configuration.tokenizer else None
    if rows is not None and not 1 <= rows <= _MOST_PADDING:
        raise RecipeError(
            f"tokenizer.pad_to_multiple_of in the recipe cannot be {shown(rows)}: give a number from 1 to "
            f"{_MOST_PADDING}"
        )


def _check_method(configuration: MergeConfiguration, content: Mapping[str, Any]) -> None:
    from mergekit.merge_methods import registered_methods

    methods = {method.spec.name: method for method in registered_methods()}
    method = methods.get(configuration.merge_method)
    if method is None:
        raise RecipeError(_unknown("merge_method", configuration.merge_method, methods, ""))
    known = {parameter.name: parameter for parameter in method.spec.parameters}
    given, weights = set(), []
    for where, settings in _settings(content, ""):
        for name, setting in settings.items():
            if name not in known:
                raise RecipeError(_unknown(f"parameter of {method.spec.name}", name, known, where))
            given.add(name)
            values = list(_checked(known[name], setting, f"{where}.{name}"))
            weights += values if name == _WEIGHT else []
    if weights and not any(weights):
        raise RecipeError("every weight in the recipe is 0; give at least one that is not")
    for name, parameter in known.items():
        if parameter.required and name not in given:
            raise RecipeError(f"the recipe does not set {name!r}, which the method {method.spec.name} requires")
    for models, base in _groups(configuration):
        try:
            method.validate_inputs(models, base)
        except ValueError as error:
            raise RecipeError(f"the models do not fit the method {method.spec.name}: {error}") from error


def _settings(value: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield all `parameters` of a recipe with their places."""
    if isinstance(value, list):
        for number, entry in enumerate(value):
            yield from _settings(entry, f"{where}[{number}]")
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            place = f"{where}.{key}".lstrip(".")
            if key == "parameters" and isinstance(entry, Mapping):
                yield place, entry
            elif key != "tokenizer":  # its `tokens` are named by the user
                yield from _settings(entry, place)


def _checked(parameter: Any, setting: Any, where: str) -> Iterator[Any]:
    """Yield every scalar of a setting: a value, a gradient, or a list of filters with them. Check type and size."""
    if isinstance(setting, list):
        for number, entry in enumerate(setting):
            yield from _checked(parameter, entry, f"{where}[{number}]")
    elif isinstance(setting, Mapping):
        yield from _checked(parameter, setting.get("value"), where)
    else:
        try:
            value = parameter.validate(setting)
        except ValueError as error:
            reason = str(error).splitlines()[1].split("[type=")[0].strip()
            raise RecipeError(f"{where} in the recipe cannot be {shown(repr(setting))}: {reason}") from error
        if isinstance(value, int | float):
            _check_number(value, setting, where, weight=parameter.name == _WEIGHT)
        yield value


def _check_number(value: float, setting: Any, where: str, *, weight: bool) -> None:
    """Refuse numbers with which a merge gives nothing but zero or infinity."""
    what = f"{where} in the recipe cannot be {shown(repr(setting))}"
    if not abs(value) <= _MOST:  # also for NaN, which mergekit reads from a string
        raise RecipeError(f"{what}: it must be between -10**9 and 10**9")
    if weight and value and not 1 / _MOST_WEIGHT <= abs(value) <= _MOST_WEIGHT:
        raise RecipeError(f"{what}: the size of a weight must be from 1e-6 to 1e6, or 0")


def _groups(configuration: MergeConfiguration) -> Iterator[tuple[list[Any], Any]]:
    """Yield the models of each part of the output, and its base, as mergekit's planner sees them."""
    for part in (configuration, *(configuration.modules or {}).values()):
        if part.models:
            models = [entry.model for entry in part.models]
            base = configuration.base_model
            yield models + ([base] if base is not None and base not in models else []), base
        for output in part.slices or ():
            yield [source.model for source in output.sources], output.base_model or configuration.base_model
