"""The runner that reads files into a collection."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import retrieval
from backends.errors import InvalidDocument
from retrieval import Document
from retrieval.ingest import SKIPPED_EXAMPLES, IngestReport, Source, from_files, ingest
from retrieval.parsing import find_files


@pytest.fixture
def collection(rag: retrieval.Ragstone) -> retrieval.Collection:
    return rag.create_collection(f"c{uuid.uuid4().hex}")


def _source(name: str, *documents: Document) -> Source:
    return Source(name, lambda: iter(documents))


def _document(number: int, text: str = "some text") -> Document:
    return Document(id=f"d{number}", text=f"{text} {number}")


def test_a_folder(tmp_path: Path, collection: retrieval.Collection) -> None:
    """A folder of files is read once; again, nothing is written; after a change, only the file that changed."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.md").write_text("# A\n\nfirst")
    (tmp_path / "sub" / "b.txt").write_text("second")
    first = ingest(collection, from_files(find_files([tmp_path])))
    assert (first.upserted, first.unchanged, [file.name for file in first.files]) == (2, 0, ["a.md", "sub/b.txt"])
    assert all(file.done for file in first.files)
    again = ingest(collection, from_files(find_files([tmp_path])))
    assert (again.upserted, again.unchanged, again.chunks) == (0, 2, 0)
    (tmp_path / "a.md").write_text("# A\n\nchanged")
    changed = ingest(collection, from_files(find_files([tmp_path])))
    assert (changed.upserted, changed.unchanged) == (1, 1)


def test_batches_cross_files(collection: retrieval.Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files share a transaction; a file is done when the last of its documents is durable, not before."""
    monkeypatch.setattr("retrieval.ingest.BATCH_DOCUMENTS", 4)
    sources = [_source(f"f{n}", *(_document(3 * n + i) for i in range(3))) for n in range(3)]
    seen: list[tuple[int, int, list[int]]] = []

    def watch(report: IngestReport) -> None:
        if not report.embedding:
            done = sum(file.done for file in report.files)
            seen.append((report.upserted, done, [file.documents for file in report.files]))
            assert collection.count() == report.documents

    ingest(collection, sources, watch)
    assert seen == [(4, 1, [3, 1]), (8, 2, [3, 3, 2]), (9, 3, [3, 3, 3])]


def test_large_documents_make_small_batches(collection: retrieval.Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is cut by characters as well, so that memory and transactions stay small."""
    monkeypatch.setattr("retrieval.ingest.BATCH_CHARACTERS", 1_000)
    sizes: list[int] = []
    before = 0

    def watch(report: IngestReport) -> None:
        nonlocal before
        if report.upserted > before:
            sizes.append(report.upserted - before)
            before = report.upserted

    ingest(collection, [_source("f", *(_document(n, "word " * 100) for n in range(5)))], watch)
    assert sizes == [2, 2, 1]


def test_skipped_documents(collection: retrieval.Collection) -> None:
    """An empty document and one that cannot be kept are skipped and told, the first of them one by one."""
    bad = [Document(id=f"empty{n}", text=" ") for n in range(SKIPPED_EXAMPLES + 5)]
    report = ingest(collection, [_source("f", _document(1), *bad, Document(id="nul", text="\x00"), _document(2))])
    file = report.files[0]
    assert (report.upserted, file.documents, file.skipped) == (2, len(bad) + 3, len(bad) + 1)
    assert len(file.skipped_examples) == SKIPPED_EXAMPLES
    assert file.skipped_examples[0].document_id == "empty0"
    assert "found no text" in file.skipped_examples[0].problem
    assert file.problem is None


def test_a_file_that_breaks_off(collection: retrieval.Collection) -> None:
    """What was read before a fault is kept, the fault is told, and the next file is read."""

    def broken() -> Iterator[Document]:
        yield _document(1)
        raise InvalidDocument("f line 2", "found no valid JSON; needed one JSON object")

    report = ingest(collection, [Source("f", broken), _source("g", _document(2))])
    assert (report.upserted, [file.name for file in report.failed_files]) == (2, ["f"])
    assert "line 2" in (report.files[0].problem or "")


def test_the_last_of_an_id_counts(collection: retrieval.Collection) -> None:
    """A document that comes twice is written twice, also within a batch: the later one stays."""
    report = ingest(collection, [_source("f", _document(1, "old"), _document(2), _document(1, "new"))])
    assert report.upserted == 3
    found = collection.get("d1")
    assert found is not None
    assert found.text == "new 1"


def test_watch_stops(collection: retrieval.Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was committed before a stop stays, and nothing comes after it."""
    monkeypatch.setattr("retrieval.ingest.BATCH_DOCUMENTS", 2)

    def watch(report: IngestReport) -> None:
        if report.upserted >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(collection, [_source("f", *(_document(n) for n in range(10)))], watch)
    assert collection.count() == 4


def test_errors_of_no_document_are_raised(collection: retrieval.Collection, rag: retrieval.Ragstone) -> None:
    """A collection that takes no texts stops the run at once, instead of failing each file."""
    own = rag.create_collection(f"c{uuid.uuid4().hex}", dimension=2)
    with pytest.raises(retrieval.RagstoneError, match="own embeddings"):
        ingest(own, [_source("f", _document(1))])
