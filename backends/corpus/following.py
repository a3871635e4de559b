"""How a vector index follows the corpus: a consistent view to build from, then the changes in their order."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.base import VectorIndex
from backends.corpus.collections import CollectionState, gone, identity, tables_of
from backends.corpus.database import Connection, Database
from backends.corpus.queries import query
from backends.errors import BehindHorizon, IndexUnavailable
from backends.types import Batch, Change, IndexSpec, Progress, nobody

ROWS_PER_BATCH = 4_096

Watch = Callable[[int | None], None]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A collection as it was at number `sequence`: read `batches` once, inside the `with` that made it."""

    sequence: int
    batches: Iterator[Batch]


@contextmanager
def snapshot(database: Database, collection: CollectionState) -> Iterator[Snapshot]:
    """Open one consistent view of the whole collection; its number is read in the same view.

    The view ends when the last batch has been read: what a slow build still does then keeps no vacuum waiting.
    """
    with tables_of(collection.name), database.dedicated() as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        sequence, _ = _standing(connection, collection)
        yield Snapshot(sequence, _batches(connection, collection))


def changes_after(
    database: Database, collection: CollectionState, applied: int, limit_chunks: int = 20_000
) -> list[Change]:
    """Return the changes that follow number `applied`, oldest first, from one consistent view.

    As many as begin within `limit_chunks` chunks, so that a long way to go is gone in pieces.

    A chunk that a later change has deleted may be missing from the change that wrote it: applying in order
    comes to the same. Raises BehindHorizon where deletes that the follower needs are forgotten, or where
    `applied` is ahead of the corpus (a restore rewound it): the follower must rebuild.
    """
    with tables_of(collection.name), database.connection() as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        sequence, horizon = _standing(connection, collection)
        if not horizon <= applied <= sequence:
            raise BehindHorizon(
                f"an index of {collection.name!r} has applied {applied}; changes {horizon} to {sequence} are kept"
            )
        values = {"collection_id": collection.id, "after": applied, "limit": limit_chunks}
        numbers = connection.execute(query("changes", "changes_after"), values).fetchall()
        return [_change(connection, collection, number, blocks) for number, blocks in numbers]


def forgotten_up_to(database: Database, collection: CollectionState) -> int:
    """Return the number up to which changes are forgotten: it only ever grows."""
    with database.connection() as connection:
        return _standing(connection, collection)[1]


def sequence_of(database: Database, collection: CollectionState) -> int:
    """Return the number of the collection's last change."""
    with database.connection() as connection:
        return _standing(connection, collection)[0]


def _standing(connection: Connection, collection: CollectionState) -> tuple[int, int]:
    values = {"collection_id": collection.id}
    row = connection.execute(query("changes", "sequence_and_horizon"), values).fetchone()
    if row is None:
        raise gone(collection.name)
    return row[0], row[1]


def _change(connection: Connection, collection: CollectionState, number: int, blocks: list[int]) -> Change:
    rows: list[tuple[Any, ...]] = []
    for block in blocks:
        rows += connection.execute(query("changes", "chunks_of_block", collection.id), {"block": block})
    values = {"collection_id": collection.id, "blocks": blocks}
    deleted = connection.execute(query("changes", "deletes_of_blocks"), values).fetchall()
    return Change(
        sequence=number,
        upserts=_batch(rows, collection.spec),
        deletes=np.array([row[0] for row in deleted], dtype=np.int64),
    )


def _batches(connection: Connection, collection: CollectionState) -> Iterator[Batch]:
    with connection.cursor(name="snapshot", binary=True) as cursor:
        cursor.itersize = ROWS_PER_BATCH
        cursor.execute(query("changes", "all_chunks", collection.id))
        while rows := cursor.fetchmany(ROWS_PER_BATCH):
            yield _batch(rows, collection.spec)
    connection.execute("COMMIT")


def _batch(rows: list[tuple[Any, ...]], spec: IndexSpec) -> Batch:
    embeddings = np.empty((len(rows), spec.dimension), np.float32)
    for position, row in enumerate(rows):
        embeddings[position] = row[1].to_numpy()
    return Batch(
        ids=np.array([row[0] for row in rows], dtype=np.int64),
        embeddings=embeddings,
        attributes=[row[2] for row in rows],
    )


def bring_up_to_date(
    database: Database,
    collection: CollectionState,
    index: VectorIndex,
    *,
    may_build: bool = True,
    watch: Watch = lambda _: None,
) -> int:
    """Let an index apply what it lacks now, and return the number it has then applied.

    What is written meanwhile may be left for the next time. An index that is lost, not this collection's, behind
    the horizon or ahead of the corpus is rebuilt; where this process may not, what another has saved is loaded, and
    IndexUnavailable says that this was not enough. `watch` is told each number that was applied, and None when a
    build begins and as it goes on; what it raises ends that.
    """
    if index.identity != (owner := identity(database, collection)):
        index.identity = owner
    elif (applied := _applied(database, collection, index, watch)) is not None:
        return applied
    if may_build:
        watch(None)
        return rebuild(database, collection, index, lambda _: watch(None))
    index.reload()
    if (applied := _applied(database, collection, index, watch)) is None:
        raise IndexUnavailable(
            f"the {index.name} index of {collection.name!r} has to be built anew, by the process that keeps it"
        )
    return applied


def rebuild(database: Database, collection: CollectionState, index: VectorIndex, progress: Progress = nobody) -> int:
    """Build an index anew from one consistent view; what comes later it follows."""
    if index.capabilities.in_corpus:  # it reads the tables itself, and would wait for our view to end
        index.build((), 0)
        return index.stats().applied
    with snapshot(database, collection) as view:
        index.build(view.batches, view.sequence, progress)
        return view.sequence


def _applied(database: Database, collection: CollectionState, index: VectorIndex, watch: Watch) -> int | None:
    """Apply what comes later than what the index has; None where only a build can help."""
    stats = index.stats()
    if not stats.ready and not index.capabilities.in_corpus:
        return None
    applied = stats.applied
    goal = sequence_of(database, collection)
    try:
        while changes := changes_after(database, collection, applied):
            applied = index.apply(changes)
            watch(applied)
            if applied >= goal:  # writers that never rest must not keep us here
                break
    except BehindHorizon:
        return None
    return applied
