"""What the corpus knows of indexes that follow it, for whoever checks them; and one change that mends."""

from dataclasses import dataclass

from backends.corpus.collections import CollectionState, gone, tables_of
from backends.corpus.database import Database
from backends.corpus.indexes import FOLLOW_LOCK_SPACE
from backends.corpus.queries import query
from backends.corpus.staging import RESTORE_LOCK_SPACE
from backends.corpus.writing import LOCK_SPACE
from backends.types import Ids

LOOK_LIMIT_MS = 5_000
"""For statements that read little: what takes longer waits for somebody."""
_SOON = {"statement_timeout": str(LOOK_LIMIT_MS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """What an index that has applied up to some number lacks.

    `chunks` counts deletes too; `waited_s` is the age of the oldest change that it lacks. `forgotten` says that some
    of what it needs is not remembered any more: it must be built anew. `total_chunks` is what the collection has now.
    """

    changes: int
    chunks: int
    waited_s: float
    forgotten: bool
    total_chunks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """A collection's own counter of its chunks, and the rows that its two tables hold."""

    counter: int
    chunks: int
    embeddings: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftRestore:
    """A restore that has not ended. `collection` is the dotted name under which it is staged."""

    collection_id: int
    collection: str
    target: str
    backup_id: str
    chunks: int
    idle_s: float
    worked_on: bool


def behind(database: Database, collection: CollectionState, applied: int) -> Behind:
    """Return what comes later than number `applied`; raises CollectionNotFound."""
    values = {"collection_id": collection.id, "applied": applied}
    with database.connection(_SOON) as connection:
        row = connection.execute(query("health_indexes", "behind"), values).fetchone()
    if row is None:
        raise gone(collection.name)
    return Behind(**dict(zip(Behind.__slots__, row, strict=True)))


def is_followed(database: Database, index_id: int) -> bool:
    """Return whether some process, this one or another, keeps an index in step."""
    values = {"lock": FOLLOW_LOCK_SPACE, "index_id": index_id}
    with database.connection(_SOON) as connection:
        return connection.execute(query("health_indexes", "followed"), values).fetchone() == (True,)


def counts(database: Database, collection: CollectionState, budget_ms: int) -> Counts:
    """Count a collection's rows; psycopg's QueryCanceled passes where that takes longer than the budget."""
    text = query("health_indexes", "counts", collection.id)
    settings = {"statement_timeout": str(budget_ms)}
    with tables_of(collection.name), database.connection(settings) as connection:
        row = connection.execute(text, {"collection_id": collection.id}).fetchone()
    if row is None:
        raise gone(collection.name)
    return Counts(**dict(zip(Counts.__slots__, row, strict=True)))


def usual_top_k(database: Database, collection: CollectionState, backend: str) -> int | None:
    """Return the top_k that 95 % of the captured searches of the last day stayed within; None where there are none."""
    values = {"collection_id": collection.id, "backend": backend}
    with database.connection(_SOON) as connection:
        row = connection.execute(query("health_indexes", "usual_top_k"), values).fetchone()
    return None if row is None or row[0] is None else int(row[0])


def forget_chunks(database: Database, collection: CollectionState, ids: Ids) -> int:
    """Let every index of the collection delete those of the ids, int64 [n], that the corpus does not have.

    It is one change of the sequence like any other, so that each index applies it in its turn, whoever keeps it.
    Returns how many there were; none makes no change.
    """
    values: dict[str, object] = {"collection_id": collection.id, "lock": LOCK_SPACE, "alone": False}
    with tables_of(collection.name), database.transaction() as connection:
        connection.execute(query("changes", "begin_write"), values)
        block = connection.execute(query("changes", "take_block")).fetchone()
        assert block is not None
        given = values | {"block": block[0], "ids": ids.tolist()}
        row = connection.execute(query("health_indexes", "forget_chunks", collection.id), given).fetchone()
        assert row is not None
        if row[0]:
            change = {"documents": 0, "chunks": 0, "blocks": [block[0]], "block_chunks": [0]}
            connection.execute(query("changes", "number_change"), values | change)
    return int(row[0])


def left_restores(database: Database) -> list[LeftRestore]:
    """Return the restores that were begun and have not ended."""
    with database.connection(_SOON) as connection:
        rows = connection.execute(query("health_indexes", "left_restores"), {"lock": RESTORE_LOCK_SPACE}).fetchall()
    return [LeftRestore(**dict(zip(LeftRestore.__slots__, row, strict=True))) for row in rows]
