"""Runs an ingest for people: empty documents counted, progress shown, the time taken."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from ops.output import Output
from retrieval import Collection, Document
from retrieval.ingest import IngestReport, Source, ingest
from retrieval.parsing import SourceFile

LINE_EVERY_S = 5.0

Watch = Callable[[IngestReport], None]


@dataclass(slots=True)
class Ingested:
    """What an ingest did. `skipped_empty` counts documents without text: accepted, and never found."""

    report: IngestReport = field(default_factory=IngestReport)
    skipped_empty: int = 0
    duration_s: float = 0.0

    @property
    def chunks_per_s(self) -> float:
        return self.report.chunks / self.duration_s if self.duration_s else 0.0


def run_ingest(collection: Collection, sources: Iterable[Source], total: int, output: Output) -> Ingested:
    """Ingest `sources`, of about `total` documents, and show on standard error how it goes."""
    done = Ingested()
    started_s = time.monotonic()
    with _watching(output, total) as watch:
        done.report = ingest(collection, (_without_empty(source, done) for source in sources), watch)
    done.duration_s = time.monotonic() - started_s
    return done


def count_documents(files: Sequence[SourceFile]) -> int:
    """Return how many documents the files seem to hold: lines where they are .jsonl, else one each."""
    return sum(_lines(file) if file.path.suffix.lower() == ".jsonl" else 1 for file in files)


def how_far(report: IngestReport, total: int, elapsed_s: float) -> str:
    """Return in one line how far an ingest is: documents, chunks, their rate and the time left."""
    chunks = report.chunks + report.embedding
    rate = chunks / elapsed_s if elapsed_s else 0.0
    line = f"{report.documents:,} of {total:,} documents kept, {chunks:,} chunks embedded, {rate:,.0f} chunks/s"
    share = _share(report, total)
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


def _without_empty(source: Source, done: Ingested) -> Source:
    def read() -> Iterator[Document]:
        for document in source.read():
            if document.text.strip():
                yield document
            else:
                done.skipped_empty += 1

    return Source(source.name, read)


@contextmanager
def _watching(output: Output, total: int) -> Iterator[Watch]:
    """Show progress: a bar on a terminal, elsewhere a line every few seconds."""
    if not output.notes.is_terminal:
        yield _Lines(output, total)
        return
    columns = (BarColumn(bar_width=None), TaskProgressColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=output.notes, transient=True) as progress:
        started_s = time.monotonic()
        task = progress.add_task("reading", total=1.0)

        def watch(report: IngestReport) -> None:
            line = how_far(report, total, time.monotonic() - started_s)
            progress.update(task, completed=_share(report, total), description=line)

        yield watch


class _Lines:
    """Progress for a log: a line, and then none for a few seconds."""

    def __init__(self, output: Output, total: int) -> None:
        self._output = output
        self._total = total
        self._started_s = self._last_s = time.monotonic()

    def __call__(self, report: IngestReport) -> None:
        now_s = time.monotonic()
        if now_s - self._last_s >= LINE_EVERY_S:
            self._last_s = now_s
            self._output.note(how_far(report, self._total, now_s - self._started_s))


def _share(report: IngestReport, total: int) -> float:
    """How much is done, from 0 to 1, with the part of the batch under way that is embedded."""
    chunks_per_document = max(1.0, report.chunks / report.upserted) if report.upserted else 1.0
    return min(1.0, (report.documents + report.embedding / chunks_per_document) / max(total, 1))


def _lines(file: SourceFile) -> int:
    try:
        with file.path.open("rb") as opened:
            return sum(1 for line in opened if line.strip())
    except OSError:
        return 1  # reading it will say why
