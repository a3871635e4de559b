"""Write transactions: everything that changes a collection goes through one, and takes one number."""

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np
import psycopg
from numpy.typing import NDArray

from backends.corpus.ahead import ahead
from backends.corpus.collections import CollectionState, gone, tables_of
from backends.corpus.database import Connection, Database
from backends.corpus.encoding import HEADER, TRAILER, ChunkRows, encode_chunks, encode_embeddings
from backends.corpus.queries import query
from backends.errors import IndexBehind, InvalidInput, RagstoneError, WriteConflict
from backends.filters import Filter
from backends.types import Ids

BLOCK_BITS = 20
"""A block has 2^20 chunk ids: block 5 holds 5 << 20 to (6 << 20) - 1."""
LOCK_SPACE = 0x7772  # "wr": the first half of a writer's advisory lock; the collection's id is the second
ATTEMPTS = 8
ROWS_PER_COPY = 256  # blocks whose memory is used again: fresh memory for larger ones took half as long as encoding
FORGET_EVERY = 256
TAIL_PATIENCE_S = 5.0
TAIL_LOOK_S = 0.05

T = TypeVar("T")
log = logging.getLogger(__name__)

_CONFLICTS = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentState:
    """What a document's chunks were made from: `content_hash` is b"" where the user made the embedding."""

    content_hash: bytes
    metadata: dict[str, Any]


class EmbeddingRows(Protocol):
    """An array [n, d], or whatever prepares its rows when they are asked for, in any thread."""

    def __getitem__(self, rows: slice, /) -> NDArray[np.floating[Any]]: ...


@dataclass(slots=True)
class WriteTransaction:
    """What can be done to a collection, as one change. Use it through `write`."""

    connection: Connection
    collection: CollectionState
    _blocks: list[int] = field(default_factory=list)
    _block_chunks: list[int] = field(default_factory=list)
    _documents: int = 0
    _chunks: int = 0
    _deletes: int = 0

    def lock_states(self, document_ids: list[str]) -> dict[str, DocumentState]:
        """Return the states of those documents that are there, and keep other writers from changing them."""
        rows = self._execute("lock_document_states", ids=document_ids)
        return {row[0]: DocumentState(content_hash=row[1] or b"", metadata=row[2]) for row in rows if row[3] <= 1}

    def delete_documents(self, document_ids: Sequence[str]) -> int:
        """Delete documents by id and return how many were there."""
        return self._deleted(self._execute("delete_documents", ids=_text_array(document_ids), block=self._block()))

    def delete_matching(self, filter: Filter) -> int:
        """Delete the documents whose metadata matches and return how many there were."""
        return self._deleted(self._execute("delete_matching", filter=filter.jsonpath(), block=self._block()))

    def insert(self, rows: ChunkRows, embeddings: EmbeddingRows) -> None:
        """Add new documents' chunks, in the order of their ids: rows [n], prepared embeddings [n, d]."""
        ids, precision = self._take_ids(len(rows)), self.collection.spec.precision

        def chunks_from(start: int) -> bytes:
            end = start + ROWS_PER_COPY
            return encode_chunks(ids[start:end], rows.part(start, end))

        def embeddings_from(start: int) -> bytes:
            end = start + ROWS_PER_COPY
            return encode_embeddings(ids[start:end], embeddings[start:end], precision)

        starts = range(0, len(rows), ROWS_PER_COPY)
        calls = [partial(encoded, start) for encoded in (chunks_from, embeddings_from) for start in starts]
        with closing(ahead(calls) if len(starts) > 1 else (call() for call in calls)) as blocks:
            self._copy("copy_chunks", islice(blocks, len(starts)))
            self._copy("copy_embeddings", blocks)
        self._documents += sum(1 for ordinal in rows.ordinals if ordinal <= 1)
        self._chunks += len(rows)

    def replace_metadata(self, metadata: Mapping[str, str]) -> int:
        """Give documents that are there new metadata (JSON text by id), their embeddings copied, not made again.

        Returns how many chunks that took.
        """
        self._next_block()
        first_id = self._blocks[-1] << BLOCK_BITS
        values = {"ids": list(metadata), "metadata": list(metadata.values())}
        rows = self._execute("replace_metadata", block=self._blocks[-1], first_id=first_id, **values).fetchall()
        if len(rows) > 1 << BLOCK_BITS:
            raise InvalidInput(
                "documents", f"found new metadata for {len(rows)} chunks; needed at most {1 << BLOCK_BITS}"
            )
        with self.connection.cursor() as inserting:
            inserting.executemany(query("changes", "insert_chunks", self.collection.id), map(_as_jsonb, rows))
        self._block_chunks[-1] = len(rows)
        return len(rows)

    @property
    def changed(self) -> bool:
        """Whether anything was done that needs a number."""
        return bool(self._deletes or any(self._block_chunks))

    def number(self) -> int:
        """Take the number, last of all: the row's lock is held until the commit."""
        row = self._execute(
            "number_change",
            documents=self._documents,
            chunks=self._chunks,
            blocks=self._blocks,
            block_chunks=self._block_chunks,
        ).fetchone()
        if row is None:
            raise gone(self.collection.name)
        sequence: int = row[0]
        return sequence

    def _deleted(self, cursor: psycopg.Cursor[Any]) -> int:
        row = cursor.fetchone()
        assert row is not None
        documents, chunks = int(row[0]), int(row[1])
        self._documents -= documents
        self._chunks -= chunks
        self._deletes += chunks
        return documents

    def _block(self) -> int:
        """Return the block in use, taking the first when none is."""
        if not self._blocks:
            self._next_block()
        return self._blocks[-1]

    def _next_block(self) -> None:
        row = self._execute("take_block").fetchone()
        assert row is not None
        self._blocks.append(row[0])
        self._block_chunks.append(0)

    def _take_ids(self, count: int) -> Ids:
        parts = []
        while count:
            block = self._block()
            room = (1 << BLOCK_BITS) - self._block_chunks[-1]
            if not room:
                self._next_block()
                continue
            taken = min(room, count)
            first = (block << BLOCK_BITS) + self._block_chunks[-1]
            parts.append(np.arange(first, first + taken, dtype=np.int64))
            self._block_chunks[-1] += taken
            count -= taken
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _copy(self, name: str, blocks: Iterator[bytes]) -> None:
        with self.connection.cursor() as cursor, cursor.copy(query("changes", name, self.collection.id)) as copy:
            copy.write(HEADER)
            for block in blocks:
                copy.write(block)
            copy.write(TRAILER)

    def _execute(self, name: str, **values: object) -> psycopg.Cursor[Any]:
        values["collection_id"] = self.collection.id
        return self.connection.execute(query("changes", name, self.collection.id), values)


def write(database: Database, collection: CollectionState, edit: Callable[[WriteTransaction], T], tail_limit: int) -> T:
    """Run `edit` as one transaction and one number of the change sequence, durable when this returns.

    A transaction that meets another writer on the same documents is rolled back and run again, alone; so `edit`
    may run several times. An edit that changes nothing takes no number. While the slowest index that follows has
    more than `tail_limit` chunks to apply, this waits a while, then raises IndexBehind. Raises CollectionNotFound.
    """
    deadline_s = time.monotonic() + TAIL_PATIENCE_S
    while True:
        try:
            return _written(database, collection, edit, tail_limit)
        except IndexBehind:
            if time.monotonic() >= deadline_s:
                raise
            time.sleep(TAIL_LOOK_S)


def _written(
    database: Database, collection: CollectionState, edit: Callable[[WriteTransaction], T], tail_limit: int
) -> T:
    for attempt in range(ATTEMPTS):
        try:
            with _opened(database, collection, attempt > 0, tail_limit) as transaction:
                result = edit(transaction)
                sequence = transaction.number() if transaction.changed else 0
        except _CONFLICTS as error:
            log.debug("write to %s met another writer: %s", collection.name, error)
            time.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311  # spreads writers, hides nothing
        except psycopg.errors.UndefinedTable as error:
            raise gone(collection.name) from error
        else:
            if sequence and sequence % FORGET_EVERY == 0:
                _tidy(database, collection)
            return result
    raise WriteConflict(f"other writers kept changing the same documents of {collection.name!r}; try again")


def document_states(database: Database, collection: CollectionState, ids: list[str]) -> dict[str, DocumentState]:
    """Return the states of those documents that are there, as committed now."""
    with tables_of(collection.name), database.connection() as connection:
        rows = connection.execute(query("changes", "document_states", collection.id), {"ids": ids}).fetchall()
    return {row[0]: DocumentState(content_hash=row[1] or b"", metadata=row[2]) for row in rows}


def forget_changes(database: Database, collection_id: int) -> None:
    """Drop what the change sequence remembers up to the number that every following index has applied."""
    with database.transaction() as connection:
        connection.execute(query("changes", "forget_changes"), {"collection_id": collection_id})


def _tidy(database: Database, collection: CollectionState) -> None:
    try:
        forget_changes(database, collection.id)
    except (psycopg.Error, RagstoneError) as error:  # the write is durable, and the next one tries again
        log.warning("old changes of %s could not be forgotten yet: %s", collection.name, error)


@contextmanager
def _opened(
    database: Database, collection: CollectionState, alone: bool, tail_limit: int
) -> Iterator[WriteTransaction]:
    values = {"collection_id": collection.id, "lock": LOCK_SPACE, "alone": alone}
    with database.transaction() as connection:
        connection.execute(query("changes", "begin_write"), values)
        behind = connection.execute(query("changes", "tail_size"), values).fetchone()
        assert behind is not None
        if behind[0] > tail_limit:
            raise IndexBehind(
                f"the vector index of {collection.name!r} is {behind[0]} chunks behind, more than tail_limit "
                f"{tail_limit}; writes wait until it has caught up"
            )
        yield WriteTransaction(connection, collection)


def _text_array(values: Sequence[str]) -> str:
    """Values without NUL as PostgreSQL writes text[]; the driver goes through them one by one, ten times slower."""
    escaped = "\0".join(values).replace("\\", "\\\\").replace('"', '\\"').replace("\0", '","')
    return f'{{"{escaped}"}}' if values else "{}"


def _as_jsonb(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*row[:5], psycopg.types.json.Jsonb(row[5]), *row[6:])
