"""Whole documents, put together again from their chunks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from backends.corpus.collections import CollectionState, tables_of
from backends.corpus.database import Database
from backends.corpus.queries import query


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDocument:
    """A document as it was given."""

    id: str
    title: str
    text: str
    metadata: dict[str, Any]


def get_document(database: Database, collection: CollectionState, document_id: str) -> StoredDocument | None:
    """Return one document, or None."""
    rows = _rows(database, collection, "document_chunks", {"document_id": document_id})
    return next(_documents(rows), None)


def get_documents(database: Database, collection: CollectionState, after: str, limit: int) -> list[StoredDocument]:
    """Return up to `limit` documents with ids beyond `after`, in bytewise order of their ids."""
    return list(_documents(_rows(database, collection, "documents_page", {"after": after, "limit": limit})))


def _rows(
    database: Database, collection: CollectionState, name: str, values: dict[str, object]
) -> list[tuple[Any, ...]]:
    with tables_of(collection.name), database.connection() as connection:
        return connection.execute(query("documents", name, collection.id), values).fetchall()


def _documents(rows: Iterable[tuple[Any, ...]]) -> Iterator[StoredDocument]:
    for document_id, group in groupby(rows, key=itemgetter(0)):
        chunks = list(group)
        yield StoredDocument(
            id=document_id,
            title=chunks[0][1],
            text=_joined([(text, start) for _, _, text, _, start, _ in chunks]),
            metadata=chunks[0][3],
        )


def _joined(chunks: list[tuple[str, int]]) -> str:
    """Neighbouring chunks overlap or touch: of each, take what comes before the next begins."""
    nexts = [start for _, start in chunks[1:]]
    heads = [text[: after - start] for (text, start), after in zip(chunks, nexts, strict=False)]
    return "".join(heads) + chunks[-1][0]
