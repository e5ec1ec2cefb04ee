"""What is shown of a run: the family tree, one model, where it stands, what came of it, and runs side by side.

A view reads a `FamilyTree` and gives a rich renderable or JSON values; it touches no disk. Importing this package is
cheap: each view is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evolve.views.comparison import compare_view
    from evolve.views.data import comparison_data, status_data
    from evolve.views.model import model_view
    from evolve.views.status import status_view, summary_view
    from evolve.views.tree import tree_view

__all__ = [
    "compare_view",
    "comparison_data",
    "model_view",
    "status_data",
    "status_view",
    "summary_view",
    "tree_view",
]

_HOMES = {
    "compare_view": "comparison",
    "comparison_data": "data",
    "model_view": "model",
    "status_data": "data",
    "status_view": "status",
    "summary_view": "status",
    "tree_view": "tree",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
