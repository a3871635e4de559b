"""How far an ingest is, and showing it: a bar on a terminal, elsewhere a line every few seconds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn
from rich.table import Column

from ops.output import Output
from retrieval.ingest import IngestReport

LINE_EVERY_S = 5.0
BYTES_PER_CHUNK = 1_000
"""Until the first batch has shown how many there are."""

Watch = Callable[[IngestReport], None]


@dataclass(slots=True)
class Work:
    """What there is to ingest, and how much of it has been read. Sizes weigh documents, so they may be rough."""

    documents: int
    size_bytes: float
    read_bytes: float = 0.0
    kept_documents: int = 0
    kept_bytes: float = 0.0

    def share(self, report: IngestReport) -> float:
        """Return how much is done, from 0 to 1, with the part of the batch under way that is embedded."""
        if report.documents != self.kept_documents:  # a batch was kept: everything that had been read
            self.kept_documents, self.kept_bytes = report.documents, self.read_bytes
        bytes_per_chunk = self.kept_bytes / report.chunks if report.chunks else BYTES_PER_CHUNK
        under_way_bytes = min(report.embedding * bytes_per_chunk, self.read_bytes - self.kept_bytes)
        return min(1.0, (self.kept_bytes + under_way_bytes) / max(self.size_bytes, 1))


def how_far(work: Work, report: IngestReport, elapsed_s: float) -> str:
    """Return in one line how far an ingest is: documents, chunks, their rate and the time left."""
    chunks = report.chunks + report.embedding
    rate = chunks / elapsed_s if elapsed_s else 0.0
    line = (
        f"{report.documents:,} of {work.documents:,} documents kept, {chunks:,} chunks embedded, {rate:,.0f} chunks/s"
    )
    share = work.share(report)
    if 0 < share < 1:
        line += f", {duration(elapsed_s * (1 - share) / share)} left"
    return line


def duration(seconds: float) -> str:
    """Return seconds as people read them: `0.8 s`, `42 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    return f"{minutes} min {rest_s} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def showing(output: Output, work: Work) -> Iterator[Watch]:
    """Show how `work` goes, on standard error."""
    if not output.notes.is_terminal:
        yield _Lines(output, work)
        return
    percent = TaskProgressColumn(table_column=Column(no_wrap=True, min_width=4))
    columns = (SpinnerColumn(), BarColumn(bar_width=None), percent, TextColumn("{task.description}"))
    with Progress(*columns, console=output.notes, transient=True) as progress:
        started_s = time.monotonic()
        task = progress.add_task("working on the first documents", total=1.0)

        def watch(report: IngestReport) -> None:
            line = how_far(work, report, time.monotonic() - started_s)
            progress.update(task, completed=work.share(report), description=line)

        yield watch


class _Lines:
    """Progress for a log: a line, and then none for a few seconds."""

    def __init__(self, output: Output, work: Work) -> None:
        self._output = output
        self._work = work
        self._started_s = self._last_s = time.monotonic()

    def __call__(self, report: IngestReport) -> None:
        now_s = time.monotonic()
        line = how_far(self._work, report, now_s - self._started_s)
        if now_s - self._last_s >= LINE_EVERY_S:
            self._last_s = now_s
            self._output.note(line)
