"""The number of tensors that each filter of a recipe matches, counted while mergekit plans."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import mergekit.parameter_resolver
from mergekit.config import ConditionalParameter

from evolve.engines.protocols import FilterMatch

__all__ = ["FilterCount"]


class FilterCount:
    """The tensors to which each filter of each parameter applies.

    Filters of one parameter that follow each other with the same value are alternatives, such as the names of one
    part of the model in several families. They count as one filter, `attn or attention`.
    """

    def __init__(self) -> None:
        self._tensors: dict[tuple[str, str], set[str]] = {}

    def matches(self) -> tuple[FilterMatch, ...]:
        """Return the counts, in the order of the recipe."""
        return tuple(FilterMatch(name, words, len(found)) for (name, words), found in self._tensors.items())

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Count the filters by which mergekit finds values within the context."""
        original = mergekit.parameter_resolver.resolve_parameter

        def recorded(parameter: Any, settings: Iterable[Any], *, tensor_name: str, **rest: Any) -> Any:
            scopes = list(settings)
            for scope in scopes:
                if (
                    scope
                    and parameter.name in scope
                    and self._record(parameter.name, scope[parameter.name], tensor_name)
                ):
                    break
            return original(parameter, scopes, tensor_name=tensor_name, **rest)

        mergekit.parameter_resolver.resolve_parameter = recorded
        try:
            yield
        finally:
            mergekit.parameter_resolver.resolve_parameter = original

    def _record(self, parameter: str, setting: Any, tensor: str) -> bool:
        """Record one look-up; return whether the setting has a value for the tensor."""
        conditions = [setting] if isinstance(setting, ConditionalParameter) else setting
        if not isinstance(conditions, list) or not all(isinstance(one, ConditionalParameter) for one in conditions):
            return True
        found = False
        for _, group in groupby(conditions, key=lambda condition: condition.value):
            filters = [condition.filter for condition in group]
            applies = any(one in {None, "*"} or one in tensor for one in filters)  # as mergekit's `evaluate_setting`
            if None not in filters:
                known = self._tensors.setdefault((parameter, " or ".join(filters)), set())
                if applies and not found:
                    known.add(tensor)
            found = found or applies
        return found
