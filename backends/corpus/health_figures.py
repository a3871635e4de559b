"""What PostgreSQL knows of its own state and of a collection's tables and indexes: the figures of health checks.

Every look takes at most `limit_ms`, or raises CorpusUnavailable.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

from backends.corpus.collections import CollectionState, gone, tables_of
from backends.corpus.database import Database
from backends.corpus.queries import named_queries, query
from backends.errors import CorpusUnavailable
from backends.filters import Filter


@dataclass(frozen=True, slots=True)
class ServerFigures:
    """Versions and settings. `pgvector_installed` is the newest whose files are there, None where none is."""

    version_number: int
    version: str
    pgvector: str
    pgvector_installed: str | None
    maintenance_bytes: int
    shared_buffers_bytes: int
    cache_bytes: int
    autovacuum: bool
    track_counts: bool


@dataclass(frozen=True, slots=True)
class ConnectionFigures:
    """Connections of the server, of the database or of the user: how many are open, how many may be."""

    of: str
    used: int
    allowed: int


@dataclass(frozen=True, slots=True)
class TableFigures:
    """One table: rows that are there, rows that are dead, and when the dead were last removed."""

    name: str
    live: int
    dead: int
    vacuumed_at: datetime | None


@dataclass(frozen=True, slots=True)
class IndexFigures:
    """One index of a collection's tables. `hits` and `reads` count its pages as searches asked for them."""

    name: str
    method: str
    whole: bool
    size_bytes: int
    hits: int
    reads: int


@dataclass(frozen=True, slots=True)
class BuildFigures:
    """A build under way. Its phase counts in blocks or in tuples; `waits_for` is the session that holds it up."""

    phase: str
    blocks_done: int
    blocks_total: int
    tuples_done: int
    tuples_total: int
    running_s: float
    waits_for: str | None

    @property
    def share(self) -> float:
        """How much of the present phase is done, from 0 to 1."""
        pairs = ((self.blocks_done, self.blocks_total), (self.tuples_done, self.tuples_total))
        return next((done / total for done, total in pairs if total), 0.0)


@dataclass(frozen=True, slots=True)
class NormFigures:
    """Of the embeddings looked at: how many are zero, and how many are neither zero nor of length 1."""

    looked_at: int
    zero: int
    off: int


def server_figures(database: Database, limit_ms: int) -> ServerFigures:
    """Return the server's versions and settings."""
    return ServerFigures(*_row(database, limit_ms, "server"))


def connection_figures(database: Database, limit_ms: int) -> list[ConnectionFigures]:
    """Return every limit on connections that there is, and how much of it is used."""
    return [ConnectionFigures(*row) for row in _rows(database, limit_ms, "connections")]


def oldest_transaction(database: Database, limit_ms: int) -> tuple[float, str] | None:
    """Return for how many seconds the oldest transaction keeps dead rows from being removed, and whose it is."""
    rows = _rows(database, limit_ms, "oldest_transaction")
    return (float(rows[0][0]), rows[0][1]) if rows else None


def idle_slot(database: Database, limit_ms: int) -> tuple[str, int] | None:
    """Return the replication slot that nobody reads from, and how many bytes of WAL it keeps."""
    rows = _rows(database, limit_ms, "idle_slot")
    return (rows[0][0], rows[0][1]) if rows else None


def oldest_table(database: Database, limit_ms: int) -> tuple[str, int, int]:
    """Return the corpus's oldest table, its age and that of the database, in transactions."""
    row = _row(database, limit_ms, "oldest_table")
    return row[0], row[1], row[2]


def unvacuumed_tables(database: Database, limit_ms: int) -> list[str]:
    """Return the tables that autovacuum was told to leave alone."""
    return [row[0] for row in _rows(database, limit_ms, "unvacuumed_tables")]


def index_bytes(database: Database, limit_ms: int) -> tuple[int, int]:
    """Return what HNSW takes in all collections together, and the largest of them."""
    row = _row(database, limit_ms, "index_bytes")
    return row[0], row[1]


def table_figures(database: Database, collection: CollectionState, limit_ms: int) -> list[TableFigures]:
    """Return the figures of a collection's two tables."""
    return [TableFigures(*row) for row in _rows(database, limit_ms, "table_rows", collection)]


def index_figures(database: Database, collection: CollectionState, limit_ms: int) -> list[IndexFigures]:
    """Return every index of a collection's tables, keys too."""
    return [IndexFigures(*row) for row in _rows(database, limit_ms, "indexes", collection)]


def build_figures(database: Database, collection: CollectionState, limit_ms: int) -> BuildFigures | None:
    """Return how a build of HNSW goes; None where none is under way."""
    rows = _rows(database, limit_ms, "build", collection)
    if not rows:
        return None
    return BuildFigures(*rows[0])


def unjoined(database: Database, collection: CollectionState, limit_ms: int) -> tuple[int, int]:
    """Count the embeddings without a chunk and the chunks without an embedding."""
    row = _row(database, limit_ms, "unjoined", collection)
    return row[0], row[1]


def norm_figures(
    database: Database, collection: CollectionState, limit_ms: int, *, percent: float, tolerance: float
) -> NormFigures:
    """Look at the lengths of so many percent of a collection's embeddings, in whole pages."""
    values = {"percent": percent, "tolerance": tolerance}
    return NormFigures(*_row(database, limit_ms, "norms", collection, **values))


def column_type(database: Database, collection: CollectionState, limit_ms: int) -> str:
    """Return the type of the embeddings' column, for example "halfvec(384)"."""
    rows = _rows(database, limit_ms, "column_type", collection)
    return rows[0][0] if rows else "none"


def change_log(database: Database, collection: CollectionState, limit_ms: int, *, limit: int) -> tuple[int, int]:
    """Return how many changes are remembered, and how many deletes, counted as far as `limit`."""
    row = _row(database, limit_ms, "change_log", collection, limit=limit, collection_id=collection.id)
    return row[0], row[1]


def sample_metadata(
    database: Database, collection: CollectionState, limit_ms: int, *, percent: float, count: int
) -> list[dict[str, Any]]:
    """Return the metadata of some chunks that have any."""
    rows = _rows(database, limit_ms, "sample_metadata", collection, percent=percent, count=count)
    return [row[0] for row in rows]


def count_by_reading(
    database: Database, collection: CollectionState, limit_ms: int, filter: Filter, *, limit: int
) -> int:
    """Count the chunks that match, as far as `limit`, without the index on the metadata."""
    values = {"filter": filter.jsonpath(), "limit": limit}
    return int(_row(database, limit_ms, "matching_by_reading", collection, **values)[0])


def vacuum(database: Database, collection: CollectionState) -> None:
    """Remove the dead rows of a collection's tables, and tell the planner what is there."""
    _run(database, query("health", "vacuum", collection.id))


def reindex(database: Database, collection: CollectionState) -> None:
    """Build HNSW anew beside the old one, while searches and writers go on; then remove what is dead."""
    _run(database, query("health", "reindex_hnsw", collection.id))
    vacuum(database, collection)


def delete_unjoined(database: Database, collection: CollectionState) -> None:
    """Delete the embeddings that no chunk leads to."""
    _run(database, query("health", "delete_unjoined", collection.id))


def drop_leftover(database: Database, index: str) -> None:
    """Drop an index that an interrupted build left behind."""
    _run(database, _of_relation("drop_index", index))


def freeze(database: Database, table: str | None) -> None:
    """Let the old rows of one of the corpus's tables, or of all in the database, need no transaction number more."""
    _run(database, query("health", "vacuum_freeze_all") if table is None else _of_relation("vacuum_freeze", table))


def reset_autovacuum(database: Database, table: str) -> None:
    """Let autovacuum look after one of the corpus's tables again, as after all others."""
    _run(database, _of_relation("reset_autovacuum", table))


def update_pgvector(database: Database) -> None:
    """Bring pgvector's SQL to the version whose files are there."""
    _run(database, query("health", "update_pgvector"))


def _rows(
    database: Database, limit_ms: int, name: str, collection: CollectionState | None = None, **values: object
) -> list[tuple[Any, ...]]:
    """Look once; the names of a collection's tables are among the values."""
    if collection is None:
        return _within(database, limit_ms, query("health", name), values)
    values |= {part: f"ragstone.{part}_{collection.id}" for part in ("chunk", "embedding")}
    with tables_of(collection.name):
        return _within(database, limit_ms, query("health", name, collection.id), values)


def _row(
    database: Database, limit_ms: int, name: str, collection: CollectionState | None = None, **values: object
) -> tuple[Any, ...]:
    rows = _rows(database, limit_ms, name, collection, **values)
    if not rows:
        assert collection is not None
        raise gone(collection.name)
    return rows[0]


def _within(database: Database, limit_ms: int, text: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
    try:
        with database.connection({"statement_timeout": str(limit_ms)}) as connection:
            return connection.execute(text, values).fetchall()
    except psycopg.errors.QueryCanceled as error:
        raise CorpusUnavailable(f"PostgreSQL did not answer within {limit_ms / 1000:.1f} s") from error


def _run(database: Database, text: str) -> None:
    """What takes long, or cannot be part of a transaction."""
    with database.dedicated() as connection:
        connection.execute(text)


def _of_relation(name: str, relation: str) -> str:
    """Return a statement about a table or an index that the catalog named."""
    text = sql.SQL(named_queries("health")[name])
    return text.format(relation=sql.Identifier("ragstone", relation)).as_string(None)
