"""The statements that answer a search: joined with text and metadata, filtered, scored exactly, ordered."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import psycopg

from backends.corpus.collections import CollectionState, gone, tables_of
from backends.corpus.database import Database, errors_mapped
from backends.corpus.parameters import TYPE, BigintArray, EmbeddingArray, embedding_parameter
from backends.corpus.queries import query
from backends.errors import FilterTooExpensive
from backends.filters import Filter
from backends.hits import Hit, Metadata
from backends.types import Embeddings, Ids, Metric, Precision

OPERATOR: dict[Metric, str] = {"cosine": "<=>", "inner_product": "<#>", "l2": "<->"}
COLUMNS = "c.document_id, c.ordinal, c.title, c.text, c.metadata::text, c.start_at, c.end_at"
"""The metadata as text: that of all rows is decoded in one call."""
PUBLIC_ID = """(CASE c.ordinal WHEN 0 THEN c.document_id ELSE c.document_id || '#' || c.ordinal END) COLLATE "C\""""

# Small changes of the last seconds, and not more of them than a search can compare beside what the index finds.
IS_RECENT = """h.sequence > (SELECT sequence FROM ragstone.collection WHERE id = %(collection_id)s) - 32
      AND h.chunks <= 64 AND h.committed_at > now() - interval '10 seconds'"""
NUMBER = 8
"""The column after COLUMNS and the distance: of what joins candidates the horizon, of what HNSW finds a sequence."""
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


def run(
    database: Database,
    collection: CollectionState,
    name: str,
    embedding: Embeddings,
    settings: dict[str, str],
    *,
    ties: bool = False,
    **values: object,
) -> list[Hit]:
    """Run one named search for one prepared query, float32 [d], its session set to `settings`.

    `ties` makes an exact search settle by id which of several equally near chunks come last; that sorts all.
    Raises FilterTooExpensive where it takes longer than the statement_timeout among the settings.
    """
    return _hits(_run(database, collection, name, embedding, settings, ties, values), collection.spec.metric)


def run_nearest(
    database: Database,
    collection: CollectionState,
    name: str,
    embedding: Embeddings,
    settings: dict[str, str],
    **values: object,
) -> tuple[list[Hit], int | None]:
    """Do what `run` does for a search by HNSW, and return the sequence that it gave, if it gave one."""
    rows = _run(database, collection, name, embedding, settings, False, values)
    return _hits(rows, collection.spec.metric), rows[0][NUMBER] if rows else None


def run_many(
    database: Database,
    collection: CollectionState,
    name: str,
    embeddings: Embeddings,
    settings: dict[str, str],
    **values: object,
) -> tuple[list[list[Hit]], int | None]:
    """Run one named search by HNSW for each of several prepared queries, float32 [q, d], all in one statement.

    What a statement costs before and after the search is paid once: the driver's work in this process, most of all.
    Raises FilterTooExpensive where all together take longer than the statement_timeout among the settings.
    """
    planned = plan_many(collection, name, embeddings, settings, None, **values)
    return planned.found(_within_budget(database, collection, planned.text, planned.values, settings))


def _run(
    database: Database,
    collection: CollectionState,
    name: str,
    embedding: Embeddings,
    settings: dict[str, str],
    ties: bool,
    values: dict[str, object],
) -> list[tuple[Any, ...]]:
    values["query"] = embedding_parameter(embedding, collection.spec.precision)
    values["collection_id"] = collection.id
    text = _statement(name, collection.id, collection.spec.metric, ties)
    return _within_budget(database, collection, text, values, settings)


@dataclass(frozen=True, slots=True)
class PlannedSearches:
    """A statement that does several searches, for whoever runs it, with what a session is set to for it.

    `settled` is the sequence that it must see to be enough, None where it looks at recent changes itself.
    """

    text: str
    values: dict[str, Any]
    settings: dict[str, str]
    metric: Metric
    count: int
    settled: int | None

    def found(self, rows: list[tuple[Any, ...]]) -> tuple[list[list[Hit]], int | None]:
        """Return what each search found, from the rows that the statement returned, and the sequence that it gave."""
        return _of_many(rows, self.metric, self.count), rows[0][NUMBER] if rows else None


def plan_many(
    collection: CollectionState,
    name: str,
    embeddings: Embeddings,
    settings: dict[str, str],
    settled: int | None,
    **values: object,
) -> PlannedSearches:
    """Return the statement of one named search by HNSW for each of several prepared queries, float32 [q, d]."""
    spec = collection.spec
    values["queries"] = EmbeddingArray(embeddings, spec.precision)
    values["collection_id"] = collection.id
    text = _statement_of_many(name, collection.id, spec.metric, spec.precision, "asked")
    return PlannedSearches(text, values, settings, spec.metric, len(embeddings), settled)


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
) -> tuple[list[Hit], int | None]:
    """Join what an index proposed, ids int64 [n], with the tail after number `applied`.

    Returns the chunks and the number up to which changes were forgotten in the same view, None where nothing was
    found: beyond `applied`, the tail is not whole.
    """
    values: dict[str, Any] = {} if filter is None else {"filter": filter.jsonpath()}
    values |= {"ids": BigintArray(ids), "applied": applied, "top_k": top_k, "collection_id": collection.id}
    values["query"] = embedding_parameter(embedding, collection.spec.precision)
    name = "candidates" if filter is None else "candidates_filtered"
    text = _statement(name, collection.id, collection.spec.metric, False)
    rows = _within_budget(database, collection, text, values, settings | _BY_ID)
    return _hits(rows, collection.spec.metric), rows[0][NUMBER] if rows else None


def join_candidates_of_many(
    database: Database,
    collection: CollectionState,
    embeddings: Embeddings,
    settings: dict[str, str],
    *,
    top_k: int,
    ids: Sequence[Ids],
    applied: int,
    filter: Filter | None,
) -> tuple[list[list[Hit]], int | None]:
    """Do what `join_candidates` does for each of several queries, float32 [q, d], with its ids, in one statement."""
    values: dict[str, Any] = {} if filter is None else {"filter": filter.jsonpath()}
    ends = np.cumsum([len(some) for some in ids])
    firsts = ends - [len(some) for some in ids] + 1  # PostgreSQL counts from 1, and a slice has its last item in it
    values |= {"ids": BigintArray(np.concatenate(ids)), "firsts": BigintArray(firsts), "lasts": BigintArray(ends)}
    values |= {"applied": applied, "top_k": top_k, "collection_id": collection.id}
    values["queries"] = EmbeddingArray(embeddings, collection.spec.precision)
    name = "candidates" if filter is None else "candidates_filtered"
    spec = collection.spec
    text = _statement_of_many(name, collection.id, spec.metric, spec.precision, "asked_with_ids")
    rows = _within_budget(database, collection, text, values, settings | _BY_ID)
    return _of_many(rows, spec.metric, len(embeddings)), rows[0][NUMBER] if rows else None


def compare_settled(
    database: Database,
    collection: CollectionState,
    embedding: Embeddings,
    settings: dict[str, str],
    *,
    top_k: int,
    ids: Ids,
    sequence: int,
    ties: bool = False,
) -> list[Hit] | None:
    """Compare the chunks that matched at number `sequence`, ids int64 [n]; None where that is not the last any more."""
    values: dict[str, Any] = {"ids": BigintArray(ids), "top_k": top_k}
    rows = _run(database, collection, "selected", embedding, settings | _BY_ID, ties, values)
    if not rows or rows[0][NUMBER] != sequence:
        return None
    return _hits(rows, collection.spec.metric)


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
) -> list[Hit] | None:
    """Compare the chunks that matched at number `applied`, ids int64 [n], and those that came later and match.

    Returns None where more than LATER_CHUNKS came later, or changes were forgotten: the ids have to be read anew.
    """
    values: dict[str, Any] = {"ids": BigintArray(ids), "applied": applied, "filter": filter.jsonpath()}
    values |= {"top_k": top_k, "later": LATER_CHUNKS, "collection_id": collection.id}
    values["query"] = embedding_parameter(embedding, collection.spec.precision)
    text = _statement("exact_selected", collection.id, collection.spec.metric, ties)
    rows = _within_budget(database, collection, text, values, settings | _BY_ID)
    if rows and not rows[0][-1]:
        return None
    found = [row for row in rows if row[0] is not None]  # one row says so where nothing was found
    return _hits(found, collection.spec.metric)


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
    try:
        return database.rows(text, values, settings)
    except psycopg.errors.DeadlockDetected:  # with a drop of the collection, which is over now
        with tables_of(collection.name), errors_mapped():
            return database.rows(text, values, settings)
    except psycopg.Error as error:
        with tables_of(collection.name), errors_mapped():
            raise error


def _hits(rows: list[tuple[Any, ...]], metric: Metric) -> list[Hit]:
    """Make hits of rows that begin with COLUMNS and the distance."""
    # pgvector returns the negative inner product, since PostgreSQL scans indexes upwards only.
    nearest = 1.0 if metric == "cosine" else 0.0
    all_metadata = json.loads(f"[{','.join([row[4] for row in rows])}]")
    return [_hit(row, metadata, nearest - row[7]) for row, metadata in zip(rows, all_metadata, strict=True)]


def _hit(row: tuple[Any, ...], metadata: Metadata, score: float) -> Hit:
    """Return a row as users see it: its public id, its span without the white space around the text."""
    document_id, ordinal, title, whole, _, start = row[:6]
    text = whole.strip()
    if len(text) != len(whole):
        start += len(whole) - len(whole.lstrip())
    return Hit(
        id=f"{document_id}#{ordinal}" if ordinal else document_id,  # 0 for a document's only chunk
        document_id=document_id,
        title=title,
        score=score,
        text=text,
        metadata=metadata,
        start=start,
        end=start + len(text),
    )


def _of_many(rows: list[tuple[Any, ...]], metric: Metric, queries: int) -> list[list[Hit]]:
    """Make chunks of rows that end with their query's number, which counts from 1."""
    found: list[list[Hit]] = [[] for _ in range(queries)]
    for row, hit in zip(rows, _hits(rows, metric), strict=True):
        found[row[-1] - 1].append(hit)
    return found


@cache
def _statement_of_many(name: str, collection_id: int, metric: Metric, precision: Precision, asked: str) -> str:
    """The named search with the queries of an array in the place of one."""
    search = _statement(name, collection_id, metric, False)
    search = search.replace("%(query)s", "q.embedding").replace("%(ids)s::bigint[]", "q.ids")
    return query(
        "search",
        "of_many",
        asked=query("search", asked, type=TYPE[precision]),
        search=search,
        public_id=PUBLIC_ID.replace("c.", "found."),
    )


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
