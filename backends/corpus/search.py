"""The statements that answer a search: joined with text and metadata, filtered, scored exactly, ordered."""

import json
import struct
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import psycopg
from pgvector import HalfVector, Vector
from psycopg.adapt import Dumper

from backends.corpus.collections import CollectionState, gone, tables_of
from backends.corpus.database import Database
from backends.corpus.queries import query
from backends.errors import FilterTooExpensive
from backends.filters import Filter
from backends.types import Embeddings, Ids, Metric

OPERATOR: dict[Metric, str] = {"cosine": "<=>", "inner_product": "<#>", "l2": "<->"}
COLUMNS = "c.document_id, c.ordinal, c.title, c.text, c.metadata::text, c.start_at, c.end_at"
"""The metadata as text: that of all rows is decoded in one call."""
PUBLIC_ID = """(CASE c.ordinal WHEN 0 THEN c.document_id ELSE c.document_id || '#' || c.ordinal END) COLLATE "C\""""

# Small changes of the last seconds, and not more of them than a search can compare beside what the index finds.
IS_RECENT = """h.sequence > (SELECT sequence FROM ragstone.collection WHERE id = %(collection_id)s) - 32
      AND h.chunks <= 64 AND h.committed_at > now() - interval '10 seconds'"""
LATER_CHUNKS = 2_000
"""What came after a selection of ids was made, and is still looked through in each search."""
# The planner cannot know how short the tail is: it would rather read the whole table, or wake workers for it.
_BY_ID = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "max_parallel_workers_per_gather": "0",
    "plan_cache_mode": "force_generic_plan",  # there is but one way left
}


_BIGINT_ARRAY_OID = 1016
_BIGINT_OID = 20
_BIGINT_ITEM = np.dtype([("size", ">i4"), ("value", ">i8")])


class FoundChunk(NamedTuple):
    """A chunk as the corpus returns it. `ordinal` is 0 for a document's only chunk, else counts from 1."""

    document_id: str
    ordinal: int
    title: str
    text: str
    metadata: dict[str, Any]
    start: int
    end: int
    score: float

    @property
    def id(self) -> str:
        """The public id, by which ties are ordered."""
        return f"{self.document_id}#{self.ordinal}" if self.ordinal else self.document_id


def run(
    database: Database,
    collection: CollectionState,
    name: str,
    embedding: Embeddings,
    settings: dict[str, str],
    *,
    ties: bool = False,
    **values: object,
) -> list[FoundChunk]:
    """Run one named search for one prepared query, float32 [d], its session set to `settings`.

    `ties` makes an exact search settle by id which of several equally near chunks come last; that sorts all.
    Raises FilterTooExpensive where it takes longer than the statement_timeout among the settings.
    """
    values["query"] = parameter(embedding, collection)
    values["collection_id"] = collection.id
    text = _statement(name, collection.id, collection.spec.metric, ties)
    rows = _within_budget(database, collection, text, values, settings)
    return _chunks(rows, collection.spec.metric)


def join_candidates(
    database: Database,
    collection: CollectionState,
    embedding: Embeddings,
    settings: dict[str, str],
    *,
    top_k: int,
    ids: Ids,
    applied: int,
    filter: Filter | None,
) -> tuple[list[FoundChunk], int | None]:
    """Join what an index proposed, ids int64 [n], with the tail after number `applied`.

    Returns the chunks and the number up to which changes were forgotten in the same view, None where nothing was
    found: beyond `applied`, the tail is not whole.
    """
    values: dict[str, Any] = {} if filter is None else {"filter": filter.jsonpath()}
    values |= {"ids": _BigintArray(ids), "applied": applied, "top_k": top_k, "collection_id": collection.id}
    values["query"] = parameter(embedding, collection)
    name = "candidates" if filter is None else "candidates_filtered"
    text = _statement(name, collection.id, collection.spec.metric, False)
    rows = _within_budget(database, collection, text, values, settings | _BY_ID)
    return _chunks(rows, collection.spec.metric), rows[0][-1] if rows else None


def compare_selected(
    database: Database,
    collection: CollectionState,
    embedding: Embeddings,
    settings: dict[str, str],
    *,
    top_k: int,
    ids: Ids,
    applied: int,
    filter: Filter,
    ties: bool = False,
) -> list[FoundChunk] | None:
    """Compare the chunks that matched at number `applied`, ids int64 [n], and those that came later and match.

    Returns None where more than LATER_CHUNKS came later, or changes were forgotten: the ids have to be read anew.
    """
    values: dict[str, Any] = {"ids": _BigintArray(ids), "applied": applied, "filter": filter.jsonpath()}
    values |= {"top_k": top_k, "later": LATER_CHUNKS, "collection_id": collection.id}
    values["query"] = parameter(embedding, collection)
    text = _statement("exact_selected", collection.id, collection.spec.metric, ties)
    rows = _within_budget(database, collection, text, values, settings | _BY_ID)
    if rows and not rows[0][-1]:
        return None
    found = [row for row in rows if row[0] is not None]  # one row says so where nothing was found
    return _chunks(found, collection.spec.metric)


def matching_ids(
    database: Database, collection: CollectionState, filter: Filter, limit: int, budget_ms: int
) -> tuple[Ids, int, int] | None:
    """Return the ids that match, int64 ascending, at most `limit`.

    And the number of the last change and how many chunks there are, in the view that the ids are from. None where
    that takes longer than the budget.
    """
    values = {"filter": filter.jsonpath(), "limit": limit, "collection_id": collection.id}
    text = query("search", "matching_ids", collection.id)
    try:
        rows = _rows(database, collection, text, values, {"statement_timeout": str(budget_ms)})
    except psycopg.errors.QueryCanceled:
        return None
    if not rows:
        raise gone(collection.name)
    sequence, chunks, ids = rows[0]
    return np.sort(np.array(ids, dtype=np.int64)), sequence, chunks


def count_matching(
    database: Database, collection: CollectionState, filter: Filter, limit: int, budget_ms: int
) -> int | None:
    """Count the chunks that match, up to `limit`; None where that takes longer than the budget."""
    values = {"filter": filter.jsonpath(), "limit": limit}
    text = query("search", "count_matching", collection.id)
    try:
        rows = _rows(database, collection, text, values, {"statement_timeout": str(budget_ms)})
    except psycopg.errors.QueryCanceled:
        return None
    return int(rows[0][0])


def _within_budget(
    database: Database, collection: CollectionState, text: str, values: dict[str, Any], settings: dict[str, str]
) -> list[tuple[Any, ...]]:
    try:
        return _rows(database, collection, text, values, settings)
    except psycopg.errors.QueryCanceled as error:
        budget_ms = settings.get("statement_timeout", "?")
        raise FilterTooExpensive(
            f"the search in {collection.name!r} took longer than statement_budget_ms ({budget_ms}): "
            "make the filter narrower or wider, search without exact, or raise the budget"
        ) from error


def _rows(
    database: Database, collection: CollectionState, text: str, values: dict[str, Any], settings: dict[str, str]
) -> list[tuple[Any, ...]]:
    def once() -> list[tuple[Any, ...]]:
        with tables_of(collection.name), database.connection(settings) as connection:
            return connection.execute(text, values, binary=True).fetchall()

    try:
        return once()
    except psycopg.errors.DeadlockDetected:  # with a drop of the collection, which is over now
        return once()


def parameter(embedding: Embeddings, collection: CollectionState) -> HalfVector | Vector:
    """Return a prepared query, float32 [d], as a parameter of the column's type."""
    return HalfVector(embedding) if collection.spec.precision == "half" else Vector(embedding)


def _chunks(rows: list[tuple[Any, ...]], metric: Metric) -> list[FoundChunk]:
    """Make chunks of rows that begin with COLUMNS and the distance."""
    # pgvector returns the negative inner product, since PostgreSQL scans indexes upwards only.
    nearest = 1.0 if metric == "cosine" else 0.0
    all_metadata = json.loads(f"[{','.join([row[4] for row in rows])}]")
    return [
        FoundChunk(row[0], row[1], row[2], row[3], metadata, row[5], row[6], nearest - row[7])
        for row, metadata in zip(rows, all_metadata, strict=True)
    ]


class _BigintArray:
    """Ids, int64 [n], as a parameter: thousands of them are written at once."""

    def __init__(self, ids: Ids) -> None:
        self.ids = ids


class _BigintArrayDumper(Dumper):
    """PostgreSQL's binary form of an array: dimensions, nulls, the items' type, length, first index; then the items."""

    format = psycopg.pq.Format.BINARY
    oid = _BIGINT_ARRAY_OID

    def dump(self, obj: _BigintArray) -> bytes:
        items = np.empty(len(obj.ids), _BIGINT_ITEM)
        items["size"], items["value"] = 8, obj.ids
        return struct.pack(">iiiii", 1, 0, _BIGINT_OID, len(items), 1) + items.tobytes()


psycopg.adapters.register_dumper(_BigintArray, _BigintArrayDumper)


@cache
def _statement(name: str, collection_id: int, metric: Metric, ties: bool) -> str:
    return query(
        "search",
        name,
        collection_id,
        operator=OPERATOR[metric],
        columns=COLUMNS,
        public_id=PUBLIC_ID,
        is_recent=IS_RECENT,
        cut="FETCH FIRST %(top_k)s ROWS WITH TIES" if ties else "LIMIT %(top_k)s",
    )
