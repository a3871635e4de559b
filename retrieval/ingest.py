"""Files into a collection: one runner for the command line and for the jobs of the service.

Documents are read one by one and upserted in batches, each of them one transaction. What is wrong with one document
or one file is reported, and the others go on. Running it again is safe: what is unchanged is not embedded again.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from backends.errors import Busy, InvalidInput
from retrieval.checking import check_document
from retrieval.collection import Collection
from retrieval.documents import Document, UpsertResult
from retrieval.parsing import SourceFile, parse_file

BATCH_DOCUMENTS = 512
BATCH_CHARACTERS = 500_000
SKIPPED_EXAMPLES = 20
"""How many skipped documents of a file are told one by one."""
SHOWN_CHARACTERS = 200
PATIENCE_S = 600.0
"""How long a batch waits for a queue or a vector index that is busy."""


@dataclass(frozen=True, slots=True)
class Source:
    """Something to read documents from. `read` may raise InvalidInput at any document; the rest is then left."""

    name: str
    read: Callable[[], Iterator[Document]]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A document that was left out, and why."""

    document_id: str
    problem: str


@dataclass(slots=True)
class FileReport:
    """How one source stands. `documents` were read and settled; `skipped` of them were left out."""

    name: str
    documents: int = 0
    skipped: int = 0
    skipped_examples: list[Skipped] = field(default_factory=list)
    problem: str | None = None
    """Why the rest of the file could not be read."""
    done: bool = False


@dataclass(slots=True)
class IngestReport:
    """How an ingest stands, in the order of its sources. The last of `files` may still be under way."""

    files: list[FileReport] = field(default_factory=list)
    upserted: int = 0
    unchanged: int = 0
    chunks: int = 0
    embedding: int = 0
    """Chunks of the batch under way that have their embedding already."""

    @property
    def documents(self) -> int:
        return sum(file.documents for file in self.files)

    @property
    def skipped(self) -> int:
        return sum(file.skipped for file in self.files)

    @property
    def failed_files(self) -> list[FileReport]:
        return [file for file in self.files if file.problem is not None]


Watch = Callable[[IngestReport], None]


def from_files(files: Iterable[SourceFile]) -> Iterator[Source]:
    """Return sources that read files of this machine, as `find_files` found them."""
    return (Source(file.name, partial(parse_file, file)) for file in files)


def ingest(collection: Collection, sources: Iterable[Source], watch: Watch = lambda _: None) -> IngestReport:
    """Read every source into `collection`, and report.

    `watch` sees the report, always the same object, after each batch and while one is embedded, and may raise
    to stop: what was committed stays. A document that comes again replaces the one before it. Waits where
    the service is Busy. Raises what `Collection.upsert` raises for reasons that no document has.
    """
    run = _Run(collection, watch)
    for source in sources:
        run.read(source)
    run.flush()
    return run.report


class _Run:
    """An ingest under way: the batch that is being filled, and where its documents come from."""

    def __init__(self, collection: Collection, watch: Watch) -> None:
        self.report = IngestReport()
        self._collection = collection
        self._watch = watch
        self._batch: dict[str, Document] = {}
        self._characters = 0
        self._owners: list[FileReport] = []  # of each document of the batch, the file
        self._ended: list[FileReport] = []

    def read(self, source: Source) -> None:
        file = FileReport(source.name)
        self.report.files.append(file)
        try:
            for document in source.read():
                self._add(file, document)
        except InvalidInput as error:
            file.problem = str(error)
        self._ended.append(file)

    def flush(self) -> None:
        """Upsert the batch; only then are its documents settled, and the files done that it ends."""
        if self._batch:
            result = self._upsert()
            self.report.upserted += result.upserted
            self.report.unchanged += result.unchanged
            self.report.chunks += result.chunks
        for file in self._owners:
            file.documents += 1
        for file in self._ended:
            file.done = True
        self.report.embedding = 0
        self._batch, self._characters, self._owners, self._ended = {}, 0, [], []
        self._watch(self.report)

    def _add(self, file: FileReport, document: Document) -> None:
        try:
            check_document(document, "document")
        except InvalidInput as error:
            _skip(file, document, error)
            return
        if document.id in self._batch:
            self.flush()
        self._batch[document.id] = document
        self._owners.append(file)
        self._characters += len(document.text)
        if len(self._batch) >= BATCH_DOCUMENTS or self._characters >= BATCH_CHARACTERS:
            self.flush()

    def _upsert(self) -> UpsertResult:
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._collection.upsert(self._batch.values(), progress=self._embedded)
            except Busy as busy:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(busy.retry_after_s)
                self._watch(self.report)

    def _embedded(self, chunks: int) -> None:
        self.report.embedding = chunks
        self._watch(self.report)


def _skip(file: FileReport, document: Document, error: InvalidInput) -> None:
    file.documents += 1
    file.skipped += 1
    if len(file.skipped_examples) < SKIPPED_EXAMPLES:
        file.skipped_examples.append(Skipped(document.id[:SHOWN_CHARACTERS], str(error)))
