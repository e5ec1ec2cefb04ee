"""How a run looks while it runs: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from evolve.lineage import Event, FamilyTree
from evolve.views.happenings import happening

__all__ = ["Display", "display"]

_PLAIN_EVERY_S = 60.0


class Display:
    """An observer that prints a line for each event, and elsewhere than on a terminal nothing in between but rarely."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._last = time.monotonic()

    def recorded(self, event: Event, tree: FamilyTree) -> None:
        """Print the event in words."""
        words = happening(event, tree)
        if words is not None:
            self.note(words)

    def working(self, call_id: str, words: str, done: int, total: int) -> None:
        """Say now and then that something long is still going on."""
        if time.monotonic() - self._last >= _PLAIN_EVERY_S and total:
            self.note(f"{call_id}: {words}, {done} of {total}")

    def note(self, words: str) -> None:
        """Print a line with the time of day."""
        self._last = time.monotonic()
        self.console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {_escaped(words)}", highlight=False, soft_wrap=True)

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class Bars(Display):
    """Adds three bars: the run in generations, the generation in models, and the step at hand."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._run = self._progress.add_task("run", total=None, visible=False)
        self._generation = self._progress.add_task("generation", total=None, visible=False)
        self._step = self._progress.add_task("step", total=None, visible=False)
        self._at: str | None = None

    def recorded(self, event: Event, tree: FamilyTree) -> None:
        """Print the event, and move the bars of the run and of the generation."""
        super().recorded(event, tree)
        generation = tree.generation
        current = tree.children_of(generation) if generation else [m for m in tree.models if m.kind == "foundation"]
        done = sum(model.status in {"evaluated", "failed"} for model in current)
        self._show(self._run, f"run {tree.config.name}", generation, tree.config.strategy.max_generations)
        self._show(self._generation, f"generation {generation}" if generation else "foundations", done, len(current))
        self._progress.update(self._step, visible=False)

    def working(self, call_id: str, words: str, done: int, total: int) -> None:
        """Move the bar of the step."""
        description = f"{call_id}: {words}" if words != call_id else words
        if self._at != description:
            self._at = description
            self._progress.reset(self._step)
        self._show(self._step, description, done, total)

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def _show(self, task: TaskID, description: str, done: int, total: int) -> None:
        self._progress.update(task, description=description, completed=done, total=total or None, visible=True)


def display() -> Display:
    """Bars where standard output is a terminal, lines elsewhere."""
    console = Console()
    return Bars(console) if console.is_terminal else Display(console)


def _escaped(words: str) -> str:
    from rich.markup import escape

    return escape(words)
