"""The progress of a run: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from evolve.analysis import remaining
from evolve.cli.output import print_text
from evolve.cli.streams import Stream
from evolve.lineage import Event, FamilyTree, GenerationPlanned
from evolve.views import describe_event, time_left
from evolve.views.numbers import duration, model_points
from evolve.views.text import plain

__all__ = ["Bars", "Display", "display"]

_LOG = logging.getLogger("evolve.run")
_PLAIN_EVERY_S = 60.0
_COUNTABLE = 1_000_000  # larger totals are bytes, shown as a percentage


class Display:
    """An observer that prints one line for each event, and one a minute for a long step.

    A display from `display` drops what cannot be written, and says so at the next event in the log of the run.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._last = time.monotonic()
        self._has_logged = False

    def show_position(self, tree: FamilyTree) -> None:
        """Show the position of a resumed run; plain lines show only new events."""

    def recorded(self, event: Event, tree: FamilyTree, at: str) -> None:
        """Print the event as a sentence."""
        del at  # a line shows the current time
        self.note(describe_event(event, tree))
        left = time_left(tree) if isinstance(event, GenerationPlanned) else None
        if left is not None:
            self.note(f"time left: {left}")
        self._log_loss()

    def working(self, call_id: str, words: str, done: int, total: int) -> None:
        """Print the progress of a step, at most once a minute."""
        if time.monotonic() - self._last >= _PLAIN_EVERY_S:
            self.note(", ".join(filter(None, [f"{call_id}: {words}", _count(done, total)])))

    def note(self, words: str) -> None:
        """Print a line with the time of day."""
        self._last = time.monotonic()
        line = Text.assemble((time.strftime("%H:%M:%S"), "dim"), " ", plain(words))
        print_text(self.console, line)

    def _log_loss(self) -> None:
        """Log once that the output is lost; a run that records events has its log."""
        lost = self.console.file.lost if isinstance(self.console.file, Stream) else None
        if lost is not None and not self._has_logged:
            self._has_logged = True
            _LOG.warning("%s; the run goes on without it", lost)

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class Bars(Display):
    """Three bars below the lines: the run in generations, the generation in models, and the current step."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress = _Rows(
            TextColumn(
                "{task.description}", markup=False, table_column=Column(ratio=3, no_wrap=True, overflow="ellipsis")
            ),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            TextColumn("{task.fields[count]}", markup=False, table_column=Column(no_wrap=True, min_width=17)),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            expand=True,
        )
        self._run, self._generation, self._step = (
            self._progress.add_task("", total=None, visible=False, count="") for _ in range(3)
        )
        self._at: dict[TaskID, str] = {}

    def recorded(self, event: Event, tree: FamilyTree, at: str) -> None:
        """Print the event and move the bars of the run and of the generation."""
        super().recorded(event, tree, at)
        self.show_position(tree)

    def show_position(self, tree: FamilyTree) -> None:
        """Set the bars of the run and of the generation."""
        number, most = tree.generation, tree.config.strategy.max_generations
        current = tree.children_of(number) if number else [m for m in tree.models if m.kind == "foundation"]
        done = sum(model.status in {"evaluated", "estimated", "dropped", "failed"} for model in current)
        finished = number if done == len(current) else max(0, number - 1)
        where = f"generation {number} of {most}" if number else "foundations"
        self._show(self._run, _with_best(tree), finished, most, where)
        what = f"generation {number}" if number else "foundations"
        self._begin(self._generation, what)
        left = remaining(tree)
        if left is not None and left.seconds_for_generation:
            what += f", about {duration(left.seconds_for_generation)} left"
        self._show(self._generation, what, done, len(current), f"{done} of {len(current)} models")

    def working(self, call_id: str, words: str, done: int, total: int) -> None:
        """Move the bar of the step."""
        step = call_id if words == call_id else f"{call_id}: {words}"
        self._begin(self._step, step)
        self._show(self._step, step, done, total, _count(done, total))

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def _begin(self, task: TaskID, at: str) -> None:
        """Reset the clock of a bar when its subject changes."""
        if self._at.get(task) != at:
            self._at[task] = at
            self._progress.reset(task)

    def _show(self, task: TaskID, words: str, done: int, total: int, count: str) -> None:
        """Move a bar; a total of 0 means unknown."""
        shown, completed = self._writable(words), min(done, total) if total else 0
        self._progress.update(
            task, description=shown, completed=completed, total=total or None, count=count, visible=True
        )

    def _writable(self, words: str) -> str:
        words = " ".join(plain(words).split())
        return words.encode("ascii", "replace").decode() if self.console.options.ascii_only else words


class _Rows(Progress):
    """Bars with a free margin for the ^C that a terminal echoes; without it the echo would move them."""

    def get_renderable(self) -> RenderableType:
        """Return all bars."""
        return _Narrower(super().get_renderable())


@dataclass(frozen=True)
class _Narrower:
    """A renderable that leaves the last three columns free."""

    part: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self.part, options.update_width(max(1, options.max_width - 3)))


class _Steady(Console):
    """A console that never hides the cursor, because nothing would show it again after a SIGKILL."""

    def show_cursor(self, show: bool = True) -> bool:  # noqa: FBT001, FBT002 - rich's signature
        """Leave the cursor visible."""
        del show
        return False


def display(*, stderr: bool = False) -> Display:
    """Return bars where the output is an interactive terminal, lines elsewhere.

    Args:
        stderr: Write to standard error, for commands that print results to standard output.
    """
    console = _Steady(file=Stream.lenient(sys.stderr if stderr else sys.stdout))
    can_move = console.is_interactive and console.file.isatty()  # FORCE_COLOR makes any file a terminal for rich
    return Bars(console) if can_move else Display(console)


def _with_best(tree: FamilyTree) -> str:
    best = tree.ranking[:1]
    return f"{tree.config.name}: " + (
        f"best is {best[0].name} with {model_points(best[0])}" if best else "no score yet"
    )


def _count(done: int, total: int) -> str:
    if total <= 0:
        return ""
    done = min(done, total)
    return f"{100 * done // total} %" if total > _COUNTABLE else f"{done} of {total}"
