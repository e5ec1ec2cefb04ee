"""The one parser of YAML that people write: safe, with unique keys, and bounded in size, nesting and aliases."""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["YamlError", "parse_yaml"]

_MOST_VALUES = 10_000
_MOST_DEPTH = 50
_MOST_DIGITS = 300  # a longer number is no float

_MERGE_TAG = "tag:yaml.org,2002:merge"
_INT_TAG = "tag:yaml.org,2002:int"


class YamlError(ValueError):
    """A text is not YAML, or not YAML that evolve reads; the message is one line, with the line of the text."""


class _Loader(yaml.SafeLoader):
    """YAML of a sensible size in which a repeated key is an error."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = 0
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._values += 1
        self._depth += 1
        _check_size(self._values, self._depth, self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _measure(node, {}, set())
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > _MOST_DIGITS:
            raise YamlError(f"{_line(node)}: the number has {len(node.value)} digits; give a smaller one")
        return int(super().construct_yaml_int(node))

    def construct_yaml_map(self, node: yaml.MappingNode) -> dict[Any, Any]:  # type: ignore[override]
        seen: dict[str, int] = {}
        for key_node, _ in node.value:  # before merge keys (<<) are resolved: a mapping may override merged keys
            if key_node.tag == _MERGE_TAG:
                continue
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, str):
                shown = key_node.value if isinstance(key_node, yaml.ScalarNode) else key
                raise YamlError(f"line {line}: the key {shown} is not a string; put it in quotes")
            if key in seen:
                raise YamlError(f"line {line}: the key {key!r} is also in line {seen[key]}; keep one of the two")
            seen[key] = line
        self.flatten_mapping(node)
        return {
            self.construct_object(key_node, deep=True): self.construct_object(value_node, deep=True)
            for key_node, value_node in node.value
        }


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _Loader.construct_yaml_map)
_Loader.add_constructor(_INT_TAG, _Loader.construct_yaml_int)


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text that anyone may have written.

    Raises:
        YamlError: The text is not YAML, a key is repeated or is not a string, or the text is too large: in values after
            aliases are expanded, in nesting, or in the digits of a number.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except YamlError:
        raise
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be parsed"
        problem = problem.removeprefix("but ").replace("\n", " ")
        raise YamlError(f"{line}not valid YAML: {problem}; fix the syntax there") from None
    except ValueError as error:  # a date such as 2024-13-45
        raise YamlError(f"not valid YAML: {error}; put a string that looks like a date in quotes") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:  # `!!bool 7`
        raise YamlError(f"not valid YAML: a tag does not fit its value ({error!r}); remove the tag") from None
    except RecursionError:
        raise YamlError("not valid YAML: it is nested too deeply; fix the brackets") from None
    except MemoryError:
        raise YamlError("it does not fit into memory; shorten it") from None


def _measure(node: yaml.Node, known: dict[int, tuple[int, int]], open_: set[int]) -> tuple[int, int]:
    """Return the number of values below a node and their depth, with every alias expanded.

    The recursion is as deep as the text is nested: the target of an alias stands before it and is known by then.
    """
    if id(node) in known:
        return known[id(node)]
    if id(node) in open_:
        raise YamlError(f"{_line(node)}: an alias in it refers to the value itself; write it without an alias")
    open_.add(id(node))
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    elif not _is_text(node.value):
        raise YamlError(f"{_line(node)}: not valid YAML: half of a surrogate pair; write the character itself")
    found = [_measure(child, known, open_) for child in children]
    values = 1 + sum(count for count, _ in found)
    depth = 1 + max((below for _, below in found), default=0)
    _check_size(values, depth, node.start_mark)
    open_.remove(id(node))
    known[id(node)] = values, depth
    return values, depth


def _check_size(values: int, depth: int, mark: yaml.Mark) -> None:
    if values > _MOST_VALUES:
        raise YamlError(
            f"line {mark.line + 1}: it has more than {_MOST_VALUES} values, with its aliases expanded; shorten it"
        )
    if depth > _MOST_DEPTH:
        raise YamlError(f"line {mark.line + 1}: not valid YAML: it is nested too deeply; fix the brackets")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"
