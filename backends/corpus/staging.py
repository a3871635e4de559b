"""Collections that are being restored: loaded aside under a name that no user can give, then switched in one step.

What was loaded is written down with the rows themselves, so that a restore that was interrupted goes on. Chunks get
new ids: what the backup has for ids belongs to another corpus, or to what this one has become since.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.types.json import Jsonb

from backends.corpus.collections import (
    CollectionState,
    create_keys,
    find_collection,
    insert_collection,
)
from backends.corpus.database import Connection, Database
from backends.corpus.encoding import HEADER, TRAILER, encode_embeddings
from backends.corpus.queries import query
from backends.corpus.writing import BLOCK_BITS
from backends.errors import CollectionExists, Conflict
from backends.types import Ids, IndexSpec

if TYPE_CHECKING:
    import pyarrow as pa

RESTORE_LOCK_SPACE = 0x7265  # "re": the first half of the lock; a hash of the name to be is the second
STAGED = ".restoring-"
REPLACED = ".replaced-"
FORGOTTEN_S = 7 * 86_400.0
"""A restore that nobody went on with for so long makes room."""
ROWS_PER_COPY = 2_048

_REFUSED = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.errors.ProgramLimitExceeded,
    psycopg.errors.StatementTooComplex,  # JSON that is nested too deep
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a collection is restored from. `checksum` is the same only for the same collection of the same backup."""

    backup_id: str
    checksum: str
    spec: IndexSpec
    stamp: dict[str, Any] | None
    sequence: int
    placement_threshold: int | None
    recall_target: float | None
    pinned_backend: str | None
    prompt: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """How much of a collection is loaded."""

    documents: int
    chunks: int


class RowsRefused(Exception):  # not an error: whoever knows where the rows are from says more
    """PostgreSQL does not take rows, for the reason that it gives."""


@contextmanager
def restore_locks(database: Database, targets: Sequence[str]) -> Iterator[None]:
    """Be the only one who restores under these names; raises Conflict where another process does."""
    with database.dedicated() as connection:
        for target in sorted(targets):
            values = {"lock": RESTORE_LOCK_SPACE, "target": target}
            if connection.execute(query("staging", "restore_lock"), values).fetchone() != (True,):
                raise Conflict(f"another process restores {target!r} now; try again when it is done")
        yield


def stage(
    database: Database, target: str, source: Source, backend: str, remove: Callable[[str], None]
) -> CollectionState:
    """Return the staged collection that is to become `target`: one begun earlier, or a new one on `backend`.

    Only one from the same source is gone on with. Needs the restore lock. What was begun from another source, or
    left alone for a week, goes to `remove`, by name: it may have a vector index outside the corpus by now.
    """
    found = None
    with database.connection() as connection:
        values = {"target": target, "forgotten_s": FORGOTTEN_S}
        rows = connection.execute(query("staging", "find_restores"), values).fetchall()
    for collection_id, name, aim, checksum in rows:
        if (aim, checksum) == (target, source.checksum):
            _execute(database, "touch_restore", collection_id=collection_id)
            found = find_collection(database, name)
        else:
            remove(name)
    return found or _staged(database, target, source, backend)


def loaded_shards(database: Database, staged: CollectionState) -> dict[str, Loaded]:
    """Return what was loaded of each file."""
    with database.connection() as connection:
        rows = connection.execute(query("staging", "restored_shards"), {"collection_id": staged.id}).fetchall()
    return {file: Loaded(documents, chunks) for file, documents, chunks in rows}


class Loader:
    """One session that loads a staged collection. For one thread; close it."""

    def __init__(self, database: Database) -> None:
        self._connection = database.connect()

    def close(self) -> None:
        """End the session; what was not committed is gone."""
        self._connection.close()

    def load(
        self,
        staged: CollectionState,
        file: str,
        batches: Sequence["tuple[pa.RecordBatch, NDArray[np.floating[Any]]]"],
    ) -> Loaded:
        """Load the rows of a file, chunks and embeddings [n, d] beside each other, at most 2^20, in one transaction.

        Raises RowsRefused.
        """
        count = sum(len(embeddings) for _, embeddings in batches)
        documents = sum(int((rows.column("ordinal").to_numpy() <= 1).sum()) for rows, _ in batches)
        with _refusals(), self._connection.transaction():
            ids = _new_ids(self._connection, count)
            self._copy("copy_chunks", staged, _encoded_rows(ids, [rows for rows, _ in batches]))
            self._copy("copy_embeddings", staged, _encoded_embeddings(ids, [part for _, part in batches], staged.spec))
            values = {"collection_id": staged.id, "file": file, "documents": documents, "chunks": count}
            self._connection.execute(query("staging", "record_shard"), values)
            self._connection.execute(query("staging", "touch_restore"), values)
        return Loaded(documents, count)

    def _copy(self, name: str, staged: CollectionState, blocks: "Iterator[bytes | pa.Buffer]") -> None:
        with self._connection.cursor() as cursor, cursor.copy(query("changes", name, staged.id)) as copy:
            copy.write(HEADER)
            for block in blocks:
                copy.write(block)
            copy.write(TRAILER)


def complete(database: Database, staged: CollectionState, loaded: Loaded) -> None:
    """Give a staged collection that is loaded its keys and its counts. Calling it again does nothing.

    Raises RowsRefused where the same chunk was loaded twice.
    """
    values: dict[str, object] = {"collection_id": staged.id}
    with database.dedicated() as connection, _refusals(), connection.transaction():
        if connection.execute(query("staging", "keys_built"), values).fetchone() == (True,):
            return
        create_keys(connection, staged.id)
        counts = {"documents": loaded.documents, "chunks": loaded.chunks}
        connection.execute(query("staging", "count_restored"), values | counts)
        connection.execute(query("indexes", "analyze_chunks", staged.id))
        connection.execute(query("indexes", "analyze_embeddings", staged.id))
        connection.execute(query("staging", "mark_keys_built"), values)


def switch(database: Database, targets: Mapping[int, str], replace: Sequence[str]) -> dict[str, str]:
    """Give staged collections, by id, their names, all in one transaction.

    A collection of such a name that is in `replace` steps aside. Returns by name the ones that those have now: they
    are to be removed when nobody searches them any more. Raises CollectionExists for one that is not in `replace`, and
    Conflict where a staged collection is gone; nothing is switched then.
    """
    aside = {}
    try:
        with database.transaction() as connection:
            values = {"names": list(targets.values())}
            for collection_id, name in connection.execute(query("staging", "lock_names"), values).fetchall():
                if name not in replace:
                    raise CollectionExists(f"collection {name!r} exists: restore --as another name, or --replace it")
                aside[name] = f"{REPLACED}{collection_id}"
                _rename(connection, collection_id, aside[name])
            for collection_id, name in targets.items():
                ended = connection.execute(query("staging", "end_restore"), {"collection_id": collection_id})
                if ended.fetchone() is None:
                    raise Conflict(f"what was restored for {name!r} was removed meanwhile; restore it again")
                _rename(connection, collection_id, name)
    except psycopg.errors.UniqueViolation as error:
        raise CollectionExists(f"a collection was created meanwhile: {error.diag.message_detail}") from error
    return aside


def replaced_collections(database: Database) -> list[str]:
    """Return the names of collections that stepped aside and are still there."""
    with database.connection() as connection:
        rows = connection.execute(query("staging", "replaced_collections"), {"pattern": f"{REPLACED}%"}).fetchall()
    return [row[0] for row in rows]


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except _REFUSED as error:
        raise RowsRefused(error.diag.message_detail or error.diag.message_primary) from error


def _staged(database: Database, target: str, source: Source, backend: str) -> CollectionState:
    name = f"{STAGED}{secrets.token_hex(8)}"
    with database.transaction() as connection:
        collection_id = insert_collection(connection, name, source.spec, source.stamp, backend)
        values = {
            "collection_id": collection_id,
            "target": target,
            "backup_id": source.backup_id,
            "source_checksum": source.checksum,
            "sequence": source.sequence,
            "placement_threshold": source.placement_threshold,
            "recall_target": source.recall_target,
            "pinned_backend": source.pinned_backend,
            "prompt": None if source.prompt is None else Jsonb(source.prompt),
        }
        connection.execute(query("staging", "begin_restore"), values)
        connection.execute(query("staging", "settle_collection"), values)
    return find_collection(database, name)


def _new_ids(connection: Connection, count: int) -> Ids:
    """Ids of a block that no other transaction has."""
    row = connection.execute(query("changes", "take_block")).fetchone()
    assert row is not None
    assert count <= 1 << BLOCK_BITS
    first = row[0] << BLOCK_BITS
    return np.arange(first, first + count, dtype=np.int64)


def _encoded_rows(ids: Ids, parts: Sequence["pa.RecordBatch"]) -> "Iterator[pa.Buffer]":
    from backends.corpus.arrow import encode_rows

    start = 0
    for rows in parts:
        yield encode_rows(ids[start : start + rows.num_rows], rows)
        start += rows.num_rows


def _encoded_embeddings(ids: Ids, parts: Sequence[NDArray[np.floating[Any]]], spec: IndexSpec) -> Iterator[bytes]:
    start = 0
    for part in parts:
        for offset in range(0, len(part), ROWS_PER_COPY):
            some = part[offset : offset + ROWS_PER_COPY]
            yield encode_embeddings(ids[start + offset : start + offset + len(some)], some, spec.precision)
        start += len(part)


def _rename(connection: Connection, collection_id: int, name: str) -> None:
    connection.execute(query("staging", "rename_collection"), {"collection_id": collection_id, "name": name})


def _execute(database: Database, name: str, **values: object) -> None:
    with database.connection() as connection:
        connection.execute(query("staging", name), values)
