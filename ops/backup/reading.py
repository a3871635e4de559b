"""Several sessions that read one snapshot at once, and what they read as batches for a file."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backends.corpus.collections import CollectionState
from backends.corpus.database import Database
from backends.corpus.exporting import CorpusSnapshot, SnapshotReader
from backends.errors import CollectionNotFound, Conflict
from ops.backup import shards
from ops.backup.planning import Piece

T = TypeVar("T")
GROUP_BYTES = 16 << 20
"""What a row group takes in memory, unless one row alone is larger."""


class ReaderPool:
    """Threads with a session each. Work that finds its collection deleted comes to None."""

    def __init__(self, database: Database, snapshot: CorpusSnapshot, jobs: int) -> None:
        self._threads = ThreadPoolExecutor(jobs, thread_name_prefix="ragstone-backup")
        self._free: SimpleQueue[SnapshotReader] = SimpleQueue()
        self._readers: list[SnapshotReader] = []
        try:
            for _ in range(jobs):
                self._readers.append(SnapshotReader(database, snapshot))
                self._free.put(self._readers[-1])
        except BaseException:
            self.close()
            raise

    def submit(self, work: Callable[[SnapshotReader], T]) -> Future[T | None]:
        """Let one of the sessions do this when its turn comes."""
        return self._threads.submit(self._do, work)

    def close(self) -> None:
        """Let what is under way come to its end, and drop the rest."""
        self._threads.shutdown(cancel_futures=True)
        for reader in self._readers:
            reader.close()

    def _do(self, work: Callable[[SnapshotReader], T]) -> T | None:
        reader = self._free.get()
        try:
            return work(reader)
        except CollectionNotFound:
            return None
        finally:
            self._free.put(reader)


@contextmanager
def reader_pool(database: Database, snapshot: CorpusSnapshot, jobs: int) -> Iterator[ReaderPool]:
    """Open the sessions, and close them in the end."""
    pool = ReaderPool(database, snapshot, jobs)
    try:
        yield pool
    finally:
        pool.close()


def batches(reader: SnapshotReader, collection: CollectionState, piece: Piece) -> Iterator[pa.RecordBatch]:
    """Read a piece and yield it as batches with the columns of a chunk file, each a row group.

    Raises Conflict where texts and embeddings do not belong together, and CollectionNotFound.
    """
    for first, last in piece.ranges:
        rows, ids, embeddings = reader.rows(collection, first, last)
        if not np.array_equal(rows.column("id").to_numpy(), ids):
            raise Conflict(
                f"collection {collection.name!r} is damaged: between chunks {first} and {last} there are "
                f"{rows.num_rows} texts and {len(ids)} embeddings, or they are not the same chunks'"
            )
        schema = shards.chunk_schema(collection.spec.dimension, collection.spec.precision)
        whole = pa.record_batch([*rows.columns, shards.embedding_array(embeddings)], schema)
        yield from _cut(whole, embeddings.itemsize * embeddings.shape[1])


def _cut(rows: pa.RecordBatch, embedding_bytes: int) -> Iterator[pa.RecordBatch]:
    lengths = sum(pc.binary_length(rows.column(name)).to_numpy().astype(np.int64) for name in _LONG)
    group = np.cumsum(lengths + embedding_bytes) // GROUP_BYTES
    starts = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist()] if rows.num_rows else []
    for start, end in zip(starts, [*starts[1:], rows.num_rows], strict=True):
        yield rows.slice(start, end - start)


_LONG = ("title", "text", "metadata")
