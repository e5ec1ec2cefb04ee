"""The part of Jinja that recipes may use: it always ends, after a number of steps that is known before it starts.

Every value is a number or a string. Numbers stay small, strings do not grow, and a loop goes over a list that is
written in it. So the steps of a template can be counted in its text, and nothing in it can fill the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.filters import do_round
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from evolve.errors import RecipeError
from evolve.files import MOST_TEXT, shown

__all__ = ["fill", "variables"]

_MOST_STEPS = 10_000
_MOST_NUMBER = 10**15
_MOST_DECIMALS = 15

_PARTS = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Assign),
    *(nodes.Name, nodes.Const, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.CondExpr),
    *(nodes.Neg, nodes.Pos, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod),
    *(nodes.Filter, nodes.Test, nodes.Getattr),
)
_FILTERS = ("abs", "d", "default", "float", "int", "lower", "round", "string", "trim", "upper")
_LOOP = ("depth", "depth0", "first", "index", "index0", "last", "length", "revindex", "revindex0")


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox that computes with small numbers only."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%"})

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, keep_trailing_newline=True)
        self.filters["round"] = _round

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise SecurityError(f"{operator} needs two numbers, and has {shown(repr(left))} and {shown(repr(right))}")
        result = super().call_binop(context, operator, left, right)
        if not abs(result) <= _MOST_NUMBER:
            raise SecurityError(f"{left} {operator} {right} is not a number between -10**15 and 10**15")
        return result


def variables(text: str) -> set[str]:
    """Return the names that a template does not define itself.

    Raises:
        RecipeError: The text is not a Jinja template, or uses more of Jinja than recipes may.
    """
    return meta.find_undeclared_variables(_parsed(text))


def fill(text: str, values: Mapping[str, Any]) -> str:
    """Return the text of a template that `variables` has accepted, with its names replaced.

    Raises:
        RecipeError: An expression has no value, or the outcome is too long.
    """
    parts, size = [], 0
    try:
        for part in _Environment().from_string(text).generate(values):
            parts.append(part)
            size += len(part)
            if size > MOST_TEXT:
                raise RecipeError(f"the filled-in text is longer than {MOST_TEXT} characters; shorten the recipe")
    except (TemplateError, ArithmeticError, TypeError, ValueError) as error:
        raise RecipeError(" ".join(str(error).split())) from error
    return "".join(parts)


def _parsed(text: str) -> nodes.Template:
    environment = _Environment()
    try:
        template = environment.parse(text)
        _check(template)
        if (steps := _steps(template)) > _MOST_STEPS:
            raise RecipeError(f"it takes {steps} steps to fill in, of at most {_MOST_STEPS}; shorten its loops")
        environment.compile(template)
    except TemplateSyntaxError as error:
        raise RecipeError(f"line {error.lineno}: {error.message}") from error
    except (RecursionError, MemoryError, SyntaxError) as error:  # Python compiles what Jinja makes of a template
        raise RecipeError("its Jinja is nested too deeply; write it with fewer brackets and blocks") from error
    except (TemplateError, ArithmeticError, TypeError, ValueError) as error:  # a constant expression
        raise RecipeError(" ".join(str(error).split())) from error
    return template


def _check(node: nodes.Node) -> None:
    """Refuse every part of a template that could run for long, grow, or reach into an object."""
    children: Iterator[nodes.Node] = node.iter_child_nodes()
    if not isinstance(node, _PARTS):
        _refuse(node, f"Jinja's {type(node).__name__}")
    if isinstance(node, nodes.Filter) and (node.name not in _FILTERS or node.node is None):
        _refuse(node, f"the filter {node.name}")
    if isinstance(node, nodes.Getattr) and not (
        isinstance(node.node, nodes.Name) and node.node.name == "loop" and node.attr in _LOOP
    ):
        _refuse(node, f"the attribute {node.attr}")
    if isinstance(node, nodes.Assign) and not isinstance(node.target, nodes.Name):
        _refuse(node, "set with several names")
    if isinstance(node, nodes.For):
        children = iter([*_items(node), *node.body, *node.else_, *([node.test] if node.test else [])])
    for child in children:
        _check(child)


def _listed(node: nodes.Node) -> list[nodes.Expr] | None:
    """Return the items of a list that is written in a template; None for anything else."""
    return list(node.items) if isinstance(node, nodes.List | nodes.Tuple) else None


def _items(loop: nodes.For) -> list[nodes.Expr]:
    """Return the values of a loop: the items of its list, or those of the tuples in it."""
    items = _listed(loop.iter)
    if loop.recursive:
        _refuse(loop, "a recursive loop")
    if items is None:
        _refuse(loop, "a loop over anything but a list such as [1, 2]")
    if isinstance(loop.target, nodes.Name):
        return items
    names, inner = _listed(loop.target) or [], [_listed(item) or [] for item in items]
    if not all(isinstance(name, nodes.Name) for name in names):
        _refuse(loop, "a loop with nested names")
    if not all(len(values) == len(names) for values in inner):
        _refuse(loop, f"a loop with {len(names)} names over anything but lists of {len(names)} values")
    return [value for values in inner for value in values]


def _steps(node: nodes.Node) -> int:
    """Return how many parts of a template are evaluated at most."""
    if isinstance(node, nodes.For):
        once = sum(map(_steps, [*node.body, *([node.test] if node.test else [])]))
        rounds = len(_listed(node.iter) or ())
        return 1 + _steps(node.iter) + rounds * once + sum(map(_steps, node.else_))
    return 1 + sum(map(_steps, node.iter_child_nodes()))


def _refuse(node: nodes.Node, what: str) -> NoReturn:
    raise RecipeError(
        f"line {node.lineno}: a recipe may not use {what}; it may use numbers, strings, if, set, loops over a list "
        f"that is written in them, and the filters {', '.join(_FILTERS)}"
    )


def _round(value: float, precision: int = 0, method: Any = "common") -> float:
    if not 0 <= precision <= _MOST_DECIMALS:
        raise SecurityError(f"round needs 0 to {_MOST_DECIMALS} decimals")
    return do_round(value, precision, method)
