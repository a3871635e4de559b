"""The vector indexes of a collection as the corpus knows them: which serves, how far each has come, which is away."""

import threading
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
import psycopg

from backends.corpus.collections import CollectionState, tables_of
from backends.corpus.database import Connection, Database
from backends.corpus.queries import query
from backends.errors import Conflict
from backends.types import Embeddings, Ids

IndexState = Literal["building", "live", "dropping"]

PAGES_PER_SAMPLE = 50
"""Whole pages are drawn: many more than are needed, so that neighbours seldom come together."""
FOLLOW_LOCK_SPACE = 0x666F  # "fo": the first half of a follower's advisory lock; of the index's id, the second


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRow:
    """One index. `applied` and `durable` are None for one that lives in the corpus, or that nobody has followed yet.

    From `durable` on, the index needs the changes again after a restart. `away_since` says that it cannot be
    followed, or has not caught up yet, and `away_reason` why. `sequence` is the number of the collection's last
    change.
    """

    id: int
    collection_id: int
    backend: str
    serving: bool
    state: IndexState
    applied: int | None
    durable: int | None
    away_since: datetime | None
    away_reason: str | None
    changed_at: datetime
    sequence: int


def indexes_of(database: Database, collection_id: int) -> list[IndexRow]:
    """Return every index of a collection, the serving one first."""
    with database.connection() as connection:
        rows = connection.execute(query("indexes", "list_indexes"), {"collection_id": collection_id}).fetchall()
    return [_row(*row) for row in rows]


def all_indexes(database: Database) -> list[tuple[str, IndexRow]]:
    """Return every index with its collection's name, in the order of the names."""
    with database.connection() as connection:
        rows = connection.execute(query("indexes", "all_indexes")).fetchall()
    return [(name, _row(*row)) for (*row, name) in rows]


def find_index(database: Database, index_id: int) -> IndexRow | None:
    """Return one index, or None where it is gone."""
    with database.connection() as connection:
        row = connection.execute(query("indexes", "find_index"), {"index_id": index_id}).fetchone()
    return None if row is None else _row(*row)


def begin_index(database: Database, collection_id: int, backend: str, *, follows: bool) -> int:
    """Register an index that is about to be built, so that changes are kept if it `follows`, and return its id."""
    values = {"collection_id": collection_id, "backend": backend, "follows": follows}
    with database.connection() as connection:
        row = connection.execute(query("indexes", "begin_index"), values).fetchone()
    assert row is not None
    index_id: int = row[0]
    return index_id


def record_applied(database: Database, index_id: int, applied: int, durable: int) -> None:
    """Write down how far an index has come, by whoever holds its follow lock."""
    _execute(database, "record_applied", index_id=index_id, applied=applied, durable=durable)


def record_away(database: Database, index_id: int, reason: str) -> None:
    """Write down that an index cannot be followed; since when stays, where that was known already."""
    _execute(database, "record_away", index_id=index_id, reason=reason)


def set_state(database: Database, index_id: int, state: IndexState) -> None:
    """Bring an index from one state to the next."""
    _execute(database, "set_index_state", index_id=index_id, state=state)


def forget_index(database: Database, index_id: int) -> None:
    """Remove an index's row, unless it serves."""
    _execute(database, "forget_index", index_id=index_id)


def flip(connection: Connection, collection_id: int, index_id: int) -> None:
    """Let another index serve, in the caller's transaction; raises Conflict where that one is not live."""
    values = {"collection_id": collection_id, "index_id": index_id}
    connection.execute(query("indexes", "stop_serving"), values)
    if connection.execute(query("indexes", "start_serving"), values).fetchone() is None:
        raise Conflict(f"index {index_id} is not live any more; nothing was changed over")


def chunk_ids(connection: Connection, collection: CollectionState) -> Ids:
    """Return every chunk id of the collection, int64 ascending, in the connection's own view."""
    with tables_of(collection.name), connection.cursor(binary=True) as cursor:
        cursor.execute(query("indexes", "chunk_ids", collection.id))
        return np.sort(np.fromiter((row[0] for row in cursor), dtype=np.int64))


def sample_embeddings(database: Database, collection: CollectionState, count: int, seed: int) -> Embeddings:
    """Return up to `count` stored embeddings, float32 [n, d], drawn from all over the collection."""
    percent = min(100.0, 100.0 * PAGES_PER_SAMPLE * count / max(collection.chunks, 1))
    values = {"percent": percent, "seed": seed, "count": count}
    text = query("indexes", "sample_embeddings", collection.id)
    with tables_of(collection.name), database.connection() as connection:
        rows = connection.execute(text, values, binary=True).fetchall()
    found = [row[0].to_numpy() for row in rows]
    return np.array(found, dtype=np.float32).reshape(len(found), collection.spec.dimension)


class FollowLocks:
    """The indexes that this process alone may apply changes to, held by one connection of their own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turn = threading.Lock()
        self._held: set[int] = set()
        self._connection: Connection | None = None

    def try_hold(self, index_id: int) -> bool:
        """Take or keep an index's lock; False where another process has it."""
        with self._turn:
            if index_id in self._held and self._alive():
                return True
            if self._lock("follow_lock", index_id):
                self._held.add(index_id)
            return index_id in self._held

    def holds(self, index_id: int) -> bool:
        """Whether this process has the lock, as far as it knows."""
        return index_id in self._held

    def release(self, index_id: int) -> None:
        """Let another process have it."""
        with self._turn:
            if index_id in self._held and self._alive():
                self._lock("follow_unlock", index_id)
            self._held.discard(index_id)

    def close(self) -> None:
        """Give all of them back. Calling it again does nothing."""
        with self._turn:
            self._forget()

    def _forget(self) -> None:
        self._held.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _alive(self) -> bool:
        """A connection that broke has lost its locks, and another process may have them by now."""
        assert self._connection is not None
        try:
            self._connection.execute("SELECT 1")
        except psycopg.Error:
            self._forget()
            return False
        return True

    def _lock(self, name: str, index_id: int) -> bool:
        if self._connection is None or self._connection.closed:
            self._forget()
            self._connection = self._database.connect()
        values = {"lock": FOLLOW_LOCK_SPACE, "index_id": index_id}
        row = self._connection.execute(query("indexes", name), values).fetchone()
        assert row is not None
        return bool(row[0])


def _execute(database: Database, name: str, **values: object) -> None:
    with database.connection() as connection:
        connection.execute(query("indexes", name), values)


def _row(*row: object) -> IndexRow:
    return IndexRow(**dict(zip(IndexRow.__slots__, row, strict=True)))  # type: ignore[arg-type]  # the query's columns
