"""Views of a run: its family tree, one model, its status, its result, and runs side by side.

A view takes a `FamilyTree` and returns a rich renderable, text or JSON values; it reads no files. Importing this
package is cheap: each view is imported at its first use. Print a renderable with `console.print(view, crop=False)`, so
that a word longer than a line is not broken.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evolve.views.comparison import compare_view
    from evolve.views.data import comparison_data, status_data
    from evolve.views.events import describe_event
    from evolve.views.model import model_view
    from evolve.views.status import Progress, resume_line, status_view, summary_view, time_left
    from evolve.views.tree import tree_view

__all__ = [
    "Progress",
    "compare_view",
    "comparison_data",
    "describe_event",
    "model_view",
    "resume_line",
    "status_data",
    "status_view",
    "summary_view",
    "time_left",
    "tree_view",
]

_HOMES = {
    "Progress": "status",
    "compare_view": "comparison",
    "comparison_data": "data",
    "describe_event": "events",
    "model_view": "model",
    "resume_line": "status",
    "status_data": "data",
    "status_view": "status",
    "summary_view": "status",
    "time_left": "status",
    "tree_view": "tree",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
