"""Who watches a run: the display of the command line, or nobody."""

from __future__ import annotations

from typing import Protocol

from evolve.lineage import Event, FamilyTree

__all__ = ["Observer", "Silent"]


class Observer(Protocol):
    """Hears what happens; called by the driver from its own thread, and must return at once."""

    def recorded(self, event: Event, tree: FamilyTree) -> None:
        """An event was written to the journal, and this is the tree with it."""

    def working(self, call_id: str, words: str, done: int, total: int) -> None:
        """A call is at `done` of `total` units of what `words` say."""

    def note(self, words: str) -> None:
        """Something that a user may want to know, and that is no event."""


class Silent:
    """Watches nothing."""

    def recorded(self, event: Event, tree: FamilyTree) -> None:
        """Pass over it."""

    def working(self, call_id: str, words: str, done: int, total: int) -> None:
        """Pass over it."""

    def note(self, words: str) -> None:
        """Pass over it."""
