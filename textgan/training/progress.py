"""Progress of long work: a bar with rate and time left on a terminal, plain lines where stderr is piped."""

import contextlib
import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

LINE_EVERY_S = 10.0
WIDE = 100  # columns of a terminal that has room for a bar beside the numbers
BAR_WIDTH = 20


class Progress:
    """Counts the steps of ``label`` up to ``total``, ``done`` of which lie before this process.

    Rates leave out what runs inside :meth:`paused`. Nothing here touches results: it writes to stderr only.
    """

    def __init__(self, label: str, *, total: int, done: int = 0):
        self.label, self.total, self.steps, self.first = label, total, done, done
        self._counts: dict[str, int] = {}
        self._numbers: dict[str, float] = {}
        self._began = self._last_line = time.monotonic()
        self._paused_s = 0.0
        self._bar: Bar | None = None
        if sys.stderr.isatty():
            console = Console(stderr=True)
            wide = console.width >= WIDE
            columns = (
                TextColumn("{task.description}"),
                *([BarColumn(bar_width=BAR_WIDTH)] if wide else []),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[shown]}"),
            )
            self._bar = Bar(*columns, console=console)
            # What the other columns leave: counts, time (5 characters, or 7 from an hour on), a space between each.
            left = console.width - len(label) - 2 * len(str(total)) - len("/ 0:00:00   ")
            self._room = left - (BAR_WIDTH + 1 if wide else 0)
            self._task = self._bar.add_task(label, total=total, completed=done, shown="")

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar:
            self._bar.stop()
        elif self.steps > self.first:
            self._print_line()

    def advance(self, **counts: int) -> None:
        """One step is done; ``counts`` (such as ``tokens=812``) add up for :meth:`rate`."""
        self.steps += 1
        for name, count in counts.items():
            self._counts[name] = self._counts.get(name, 0) + count
        if self._bar:
            self._bar.update(self._task, completed=self.steps)

    def rate(self, name: str) -> float:
        """``steps``, or a count of :meth:`advance`, a second since this process began."""
        seconds = max(1e-9, time.monotonic() - self._began - self._paused_s)
        return (self.steps - self.first if name == "steps" else self._counts[name]) / seconds

    def show(self, **numbers: float) -> None:
        """Remember ``numbers`` and show them: beside the bar, or as a line every ten seconds."""
        self._numbers |= numbers
        if self._bar:
            rate = f"{self.rate('steps'):.1f} steps/s"
            self._bar.update(self._task, shown=_fit([rate, *self._items()], self._room))
        elif time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._print_line()

    def _items(self) -> list[str]:
        return [f"{name} {value:.4g}" for name, value in self._numbers.items()]

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        rate = self.rate("steps")
        left = f"{_clock((self.total - self.steps) / max(1e-9, rate))} left"
        shown = [f"{self.label} {self.steps}/{self.total}", f"{rate:.1f} steps/s", left, *self._items()]
        print("  ".join(shown), file=sys.stderr)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside does not count in rates."""
        began = time.monotonic()
        yield
        self._paused_s += time.monotonic() - began


def _fit(items: list[str], room: int) -> str:
    """As many of the last ``items`` as fit into ``room`` characters: the newest numbers come last."""
    while len(items) > 1 and len("  ".join(items)) > room:
        items = items[1:]
    return "  ".join(items)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
