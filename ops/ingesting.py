"""Runs an ingest for people: empty documents counted, progress shown, the time taken."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ops.output import Output
from ops.progress import Work, showing
from retrieval import Collection, Document
from retrieval.ingest import IngestReport, Source, from_files, ingest
from retrieval.parsing import SourceFile


@dataclass(frozen=True, slots=True)
class Measured:
    """A source with about how many documents and bytes it holds."""

    source: Source
    documents: int
    size_bytes: int


@dataclass(slots=True)
class Ingested:
    """What an ingest did. `skipped_empty` counts documents without text: accepted, and never found."""

    report: IngestReport = field(default_factory=IngestReport)
    skipped_empty: int = 0
    duration_s: float = 0.0

    @property
    def chunks_per_s(self) -> float:
        return self.report.chunks / self.duration_s if self.duration_s else 0.0


def run_ingest(collection: Collection, measured: Sequence[Measured], output: Output) -> Ingested:
    """Ingest the sources, and show on standard error how it goes."""
    done = Ingested()
    work = Work(sum(each.documents for each in measured), sum(each.size_bytes for each in measured))
    started_s = time.monotonic()
    with showing(output, work) as watch:
        done.report = ingest(collection, (_watched(each, done, work) for each in measured), watch)
    done.duration_s = time.monotonic() - started_s
    return done


def measure(files: Sequence[SourceFile]) -> list[Measured]:
    """Return the files as sources; a .jsonl file holds a document a line, another one."""
    sources = from_files(files)
    return [Measured(source, _documents(file), _size_bytes(file)) for source, file in zip(sources, files, strict=True)]


def _watched(measured: Measured, done: Ingested, work: Work) -> Source:
    """The source without its empty documents, noting what is read."""
    weight_bytes = measured.size_bytes / max(measured.documents, 1)

    def read() -> Iterator[Document]:
        for document in measured.source.read():
            work.read_bytes += weight_bytes
            if document.text.strip():
                yield document
            else:
                done.skipped_empty += 1

    return Source(measured.source.name, read)


def _documents(file: SourceFile) -> int:
    if file.path.suffix.lower() != ".jsonl":
        return 1
    try:
        with file.path.open("rb") as opened:
            return sum(1 for line in opened if line.strip())
    except OSError:
        return 1  # reading it will say why


def _size_bytes(file: SourceFile) -> int:
    try:
        return file.path.stat().st_size
    except OSError:
        return 0
