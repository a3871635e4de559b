"""The corpus as it was at one instant, read by several sessions at once while writes go on.

One session exports its snapshot and holds it; readers adopt it, each piece in a transaction of its own, so that who
deletes a collection waits for one piece at most (https://www.postgresql.org/docs/current/functions-admin.html,
"Snapshot Synchronization Functions").
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from backends.corpus.collections import CollectionState, collection_states, tables_of
from backends.corpus.database import Connection, Database
from backends.corpus.queries import query
from backends.types import Ids

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSnapshot:
    """What every reader sees: the corpus at `taken_at`. It ends with the `with` that made it."""

    name: str
    taken_at: datetime
    system_identifier: int
    timeline: int
    postgresql_version: str
    pgvector_version: str
    collections: list[CollectionState]


@contextmanager
def corpus_snapshot(database: Database) -> Iterator[CorpusSnapshot]:
    """Hold one view of the whole corpus. Meanwhile vacuum removes nothing that was deleted since."""
    with database.dedicated() as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        name, taken_at = _row(connection, "backups", "export_snapshot")
        system_identifier, timeline = _row(connection, "collections", "identity")
        postgresql, pgvector = _row(connection, "backups", "versions")
        yield CorpusSnapshot(
            name=name,
            taken_at=taken_at,
            system_identifier=system_identifier,
            timeline=timeline,
            postgresql_version=postgresql,
            pgvector_version=pgvector,
            collections=collection_states(connection.execute(query("backups", "exported_collections"))),
        )


class SnapshotReader:
    """One session that reads what a snapshot shows. For one thread; close it."""

    def __init__(self, database: Database, snapshot: CorpusSnapshot) -> None:
        self._connection = database.connect()
        self._adopt = sql.SQL("SET TRANSACTION SNAPSHOT {}").format(snapshot.name)

    def close(self) -> None:
        """End the session, also one that is in the middle of something."""
        self._connection.close()

    def ids(self, collection: CollectionState, after: int, limit: int) -> Ids:
        """Return the next ids after `after`, int64 ascending, at most `limit`. Raises CollectionNotFound."""
        values = {"after": after, "limit": limit}
        with self._reading(collection):
            text = query("backups", "ids_after", collection.id)
            row = self._connection.execute(text, values, binary=True).fetchone()
        found = b"" if row is None or row[0] is None else row[0]
        return np.frombuffer(found, ">i8").astype(np.int64)

    def table_bytes(self, collection: CollectionState) -> int:
        """Return what the chunk table takes, without its indexes. Raises CollectionNotFound."""
        values = {"table": f"ragstone.chunk_{collection.id}"}
        with self._reading(collection):
            row = self._connection.execute(query("backups", "table_bytes"), values).fetchone()
        assert row is not None
        return int(row[0])

    def rows(
        self, collection: CollectionState, first: int, last: int
    ) -> "tuple[pa.RecordBatch, Ids, NDArray[np.floating[Any]]]":
        """Return the chunks of the ids from `first` to `last`, and the ids and embeddings that are stored there.

        The embeddings are [n, d] in the dtype kept. Raises CollectionNotFound.
        """
        from backends.corpus.arrow import decode_chunks, decode_embeddings

        values = {"first": first, "last": last}
        spec = collection.spec
        with self._reading(collection):
            chunks = decode_chunks(self._copied("copy_chunk_rows", collection, values))
            stored = self._copied("copy_embedding_rows", collection, values)
        return chunks, *decode_embeddings(stored, spec.dimension, spec.precision)

    @contextmanager
    def _reading(self, collection: CollectionState) -> Iterator[None]:
        with tables_of(collection.name), self._connection.transaction():
            self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            self._connection.execute(self._adopt)
            self._connection.execute(query("backups", "read_in_order"))
            yield

    def _copied(self, name: str, collection: CollectionState, values: dict[str, int]) -> list[bytes]:
        text = query("backups", name, collection.id)
        with self._connection.cursor() as cursor, cursor.copy(text, values) as copy:
            return list(copy)  # type: ignore[arg-type]  # one buffer a row


def _row(connection: Connection, file: str, name: str) -> tuple[Any, ...]:
    row = connection.execute(query(file, name)).fetchone()
    assert row is not None
    return row
