"""Showing how a backup, its verification or its restore goes: a bar on a terminal, elsewhere a line now and then."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.filesize import decimal
from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

from ops.backup.progress import Progress, Watch
from ops.output import Output
from ops.progress import LINE_EVERY_S, duration


class Pace:
    """Says how far a phase is, and how fast it goes since it began. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phase: str | None = None
        self._began_s = 0.0
        self._began_at = 0

    def line(self, progress: Progress) -> str:
        """Return one line: the phase, how much is done of how much, the rate, the time left."""
        rate = self._rate(progress)
        total = f" of {_amount(progress.total, progress.unit)}" if progress.total else ""
        counted = "" if progress.unit == "bytes" else f" {progress.unit}"
        words = f"{progress.phase}: {_amount(progress.done, progress.unit)}{total}{counted}"
        if rate is not None:
            words += f", {_rate_words(rate, progress.unit)}"
        if progress.left_s is not None:
            words += f", {duration(progress.left_s)} left"
        return words

    def _rate(self, progress: Progress) -> float | None:
        """Per second, since the phase began; None at its beginning."""
        now_s = time.monotonic()
        with self._lock:
            if progress.phase != self._phase or progress.done < self._began_at:
                self._phase, self._began_s, self._began_at = progress.phase, now_s, progress.done
            spent_s, done = now_s - self._began_s, progress.done - self._began_at
        return done / spent_s if done and spent_s > 0 else None


def share(progress: Progress) -> float:
    """Return how much of a phase is done, from 0 to 1."""
    return min(1.0, progress.done / progress.total) if progress.total else 0.0


@contextmanager
def showing(output: Output, first: str) -> Iterator[Watch]:
    """Show on standard error how work goes; `first` says what is done until there is something to say."""
    if not output.notes.is_terminal:
        yield _Lines(output)
        return
    percent = TaskProgressColumn(table_column=Column(no_wrap=True, min_width=4))
    columns = (SpinnerColumn(), BarColumn(bar_width=None), percent, TextColumn("{task.description}", markup=False))
    with Bar(*columns, console=output.notes, transient=True) as bar:
        pace, task = Pace(), bar.add_task(first, total=1.0)

        def watch(progress: Progress) -> None:
            bar.update(task, completed=share(progress), description=pace.line(progress))

        yield watch


class _Lines:
    """Progress for a log: a line, and then none for a few seconds."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._pace = Pace()
        self._last_s = time.monotonic()
        self._lock = threading.Lock()

    def __call__(self, progress: Progress) -> None:
        line = f"{share(progress):.0%} {self._pace.line(progress)}"
        now_s = time.monotonic()
        with self._lock:
            due = now_s - self._last_s >= LINE_EVERY_S
            self._last_s = now_s if due else self._last_s
        if due:
            self._output.note(line)


def _amount(count: int, unit: str) -> str:
    return decimal(count) if unit == "bytes" else f"{count:,}"


def _rate_words(rate_per_s: float, unit: str) -> str:
    return f"{decimal(round(rate_per_s))}/s" if unit == "bytes" else f"{rate_per_s:,.0f} {unit}/s"
