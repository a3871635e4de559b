"""The index that lives in the corpus: pgvector's HNSW on the embeddings, and a GIN index on the metadata.

PostgreSQL keeps both up to date in the transaction that writes, so they are never behind. HNSW:
https://arxiv.org/abs/1603.09320; the parameters: https://github.com/pgvector/pgvector#hnsw
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
import psycopg

from backends.base import VectorIndex
from backends.corpus.collections import BUILD_LOCK_SPACE, CollectionState, tables_of
from backends.corpus.database import Connection, Database
from backends.corpus.parameters import embedding_parameter
from backends.corpus.queries import query
from backends.corpus.search import OPERATOR, PlannedSearches, plan_many, run_many, run_nearest
from backends.filters import OPERATORS, Filter
from backends.hits import Hit
from backends.types import (
    Batch,
    Candidates,
    Capabilities,
    Change,
    Embeddings,
    Ids,
    IndexIdentity,
    IndexStats,
    Metric,
    Precision,
    Progress,
    nobody,
)

M = 16
EF_CONSTRUCTION = 64
MAX_EF_SEARCH = 1_000
MAX_SCAN_TUPLES = 20_000
"""Tuples that one search may visit; it never proposes as many."""
STATE_TTL_S = 2.0
IDS_PER_BATCH = 50_000

_OPERATOR_CLASS: dict[tuple[Precision, Metric], str] = {
    ("half", "cosine"): "halfvec_cosine_ops",
    ("half", "inner_product"): "halfvec_ip_ops",
    ("half", "l2"): "halfvec_l2_ops",
    ("single", "cosine"): "vector_cosine_ops",
    ("single", "inner_product"): "vector_ip_ops",
    ("single", "l2"): "vector_l2_ops",
}
# With every other way forbidden the planner's row estimates do not matter: a filter it misjudges cannot lose hits.
_ONLY_HNSW = {
    "enable_seqscan": "off",
    "enable_sort": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "max_parallel_workers_per_gather": "0",
    "plan_cache_mode": "force_generic_plan",  # there is but one way left: planning each search anew took a third of it
    "hnsw.iterative_scan": "relaxed_order",
    "hnsw.max_scan_tuples": str(MAX_SCAN_TUPLES),
}

Found = TypeVar("Found")

log = logging.getLogger(__name__)


class PgvectorIndex(VectorIndex):
    """HNSW on one collection. Until it is built, `ready` is False and searches belong to the exact path."""

    name = "pgvector"
    capabilities = Capabilities(filters=frozenset(OPERATORS), in_corpus=True)

    def __init__(
        self,
        database: Database,
        collection: CollectionState,
        identity: IndexIdentity,
        ef_search: int,
        statement_budget_ms: int,
    ) -> None:
        self.spec = collection.spec
        self.identity = identity
        self._database = database
        self._collection = collection
        self._ef_search = ef_search
        self._budget_ms = statement_budget_ms
        self._ready = False
        self._seen_at = float("-inf")
        self._builder: Connection | None = None
        self._settled: int | None = None

    @property
    def ready(self) -> bool:
        """Whether HNSW is there and whole, as seen at most two seconds ago."""
        if time.monotonic() - self._seen_at > STATE_TTL_S:
            self._ready = self._states().get(self._hnsw_name, (False, 0))[0]
            self._seen_at = time.monotonic()
        return self._ready

    def build(self, batches: Iterable[Batch] = (), applied: int = 0, progress: Progress = nobody) -> None:
        """Build what is missing from the rows that are there, while writers and searches go on.

        The batches are not read: the embeddings are in the same database. PostgreSQL itself counts how far it is:
        `build_progress`.
        """
        del batches, applied, progress
        self.build_missing()

    def build_missing(self) -> bool:
        """Build what is missing, and return whether all is there now.

        False where another process builds, or where the build was cancelled. What an interrupted build left
        behind is dropped first. HNSW comes last: where it is there, the rest is.
        """
        try:
            with tables_of(self._collection.name), self._build_lock() as connection:
                if connection is not None:
                    self._build_filter_index(connection)
                    self._build_hnsw(connection)
        except psycopg.errors.QueryCanceled:
            log.info("building %s was cancelled", self._hnsw_name)
        self._seen_at = float("-inf")
        return self.ready

    def build_filter_index(self) -> None:
        """Build the index on the metadata alone: filters need it, whatever index finds the embeddings."""
        with tables_of(self._collection.name), self._build_lock() as connection:
            if connection is not None:
                self._build_filter_index(connection)

    def probe(self, rows: int) -> tuple[int, float]:
        """Build HNSW on a copy of some rows, throw both away, and return how many rows took how many seconds."""
        with tables_of(self._collection.name), self._database.dedicated() as connection, connection.transaction():
            connection.execute(self._sql("copy_probe"), {"rows": rows})
            started = time.monotonic()
            connection.execute(self._sql("create_probe"))
            took_s = time.monotonic() - started
            row = connection.execute("SELECT count(*) FROM ragstone_probe").fetchone()
        assert row is not None
        return int(row[0]), took_s

    def build_progress(self) -> tuple[int, int]:
        """Return how many blocks of how many a build under way has read; (0, 0) where there is none."""
        values = {"table": f"ragstone.embedding_{self._collection.id}"}
        with tables_of(self._collection.name), self._database.connection() as connection:
            row = connection.execute(query("indexes", "build_progress"), values).fetchone()
        return (0, 0) if row is None else (int(row[1]), int(row[2]))

    def cancel_build(self) -> None:
        """Stop a build that another thread runs."""
        if (builder := self._builder) is not None:
            builder.cancel()

    def apply(self, changes: Sequence[Change]) -> int:
        """Nothing to do: the transaction that wrote has updated the index. Returns the last number given."""
        return max((change.sequence for change in changes), default=self._sequence())

    def search(
        self,
        queries: Embeddings,
        candidates: int,
        filter: Filter | None = None,
        effort: int | None = None,
        allowed: Ids | None = None,
    ) -> Candidates:
        del filter, allowed  # the joined search has the filter; alone, the index cannot see metadata
        applied = self._sequence()
        ids, scores = [], []
        text = query("search", "nearest_ids", self._collection.id, operator=OPERATOR[self.spec.metric])
        for embedding in queries:
            settings = self.settings(candidates, effort)
            with tables_of(self._collection.name), self._database.connection(settings) as connection:
                values = {"query": embedding_parameter(embedding, self.spec.precision), "candidates": candidates}
                rows = connection.execute(text, values, binary=True).fetchall()
            order = sorted(rows, key=lambda row: (row[1], row[0]))
            ids.append(np.array([row[0] for row in order], dtype=np.int64))
            distances = np.array([row[1] for row in order], dtype=np.float32)
            scores.append(1 - distances if self.spec.metric == "cosine" else -distances)
        return Candidates(ids=ids, scores=scores, applied=applied)

    def nearest(
        self,
        embedding: Embeddings,
        top_k: int,
        filter: Filter | None,
        effort: int | None = None,
        proposals: int = MAX_SCAN_TUPLES,
    ) -> list[Hit]:
        """Search and join in one statement: one prepared query, float32 [d].

        Fewer than top_k where the scan ends, or none of `proposals` chunks, nearest first, matches any more.
        """
        search = partial(run_nearest, self._database, self._collection)
        return self._found(search, embedding, top_k, filter, effort, proposals)

    def nearest_of_many(
        self,
        embeddings: Embeddings,
        top_k: int,
        filter: Filter | None,
        effort: int | None = None,
        proposals: int = MAX_SCAN_TUPLES,
    ) -> list[list[Hit]]:
        """Do what `nearest` does for each of several queries, float32 [q, d], in one statement."""
        search = partial(run_many, self._database, self._collection)
        return self._found(search, embeddings, top_k, filter, effort, proposals)

    def _found(
        self,
        search: Callable[..., tuple[list[Found], int | None]],
        asked: Embeddings,
        top_k: int,
        filter: Filter | None,
        effort: int | None,
        proposals: int,
    ) -> list[Found]:
        """Look at recent changes, too, unless it is known that there are none: that takes a quarter of the time."""
        name, values = "nearest", dict[str, object](top_k=top_k)
        if filter is not None:
            name, values = "nearest_filtered", {**values, "filter": filter.jsonpath(), "proposals": proposals}
        settings = self.settings(top_k, effort)
        if (settled := self._settled) is not None:
            found, sequence = search(name, asked, settings, **values)
            if sequence == settled:
                return found
        found, self._settled = search(f"{name}_and_recent", asked, settings, **values)
        return found

    def planned(self, embeddings: Embeddings, top_k: int, effort: int | None) -> PlannedSearches | None:
        """Return the statement of such searches without a filter; None where it is not known that HNSW is there.

        Nobody is asked.
        """
        if not self._ready or time.monotonic() - self._seen_at > STATE_TTL_S:
            return None
        settled = self._settled
        name = "nearest_and_recent" if settled is None else "nearest"
        settings = self.settings(top_k, effort)
        return plan_many(self._collection, name, embeddings, settings, settled, top_k=top_k)

    def found(self, planned: PlannedSearches, rows: list[tuple[Any, ...]]) -> list[list[Hit]] | None:
        """Return what planned searches found; None where they did not look at what is recent."""
        found, sequence = planned.found(rows)
        is_whole = planned.settled in (None, sequence)
        self._settled = sequence if is_whole else None
        return found if is_whole else None

    def settings(self, top_k: int, effort: int | None) -> dict[str, str]:
        """Return what a session that searches is set to."""
        ef_search = min(max(effort or self._ef_search, top_k), MAX_EF_SEARCH)
        return {**_ONLY_HNSW, "hnsw.ef_search": str(ef_search), "statement_timeout": str(self._budget_ms)}

    def ids(self) -> Iterator[Ids]:
        with (
            tables_of(self._collection.name),
            self._database.transaction() as connection,
            connection.cursor(name="ids", binary=True) as cursor,
        ):
            cursor.execute(query("indexes", "embedding_ids", self._collection.id))
            while rows := cursor.fetchmany(IDS_PER_BATCH):
                yield np.array([row[0] for row in rows], dtype=np.int64)

    def stats(self) -> IndexStats:
        states = self._states()
        ready, hnsw_bytes = states.get(self._hnsw_name, (False, 0))
        gin_bytes = states.get(self._gin_name, (False, 0))[1]
        with self._database.connection() as connection:
            row = connection.execute(
                "SELECT chunks, sequence FROM ragstone.collection WHERE id = %s", (self._collection.id,)
            ).fetchone()
        chunks, sequence = row or (0, 0)
        details = {"m": M, "ef_construction": EF_CONSTRUCTION, "gin_bytes": gin_bytes}
        return IndexStats(
            count=chunks, applied=sequence, size_bytes=hnsw_bytes + gin_bytes, ready=ready, details=details
        )

    def ping(self) -> None:
        self._database.ping()

    def drop(self) -> None:
        """Remove HNSW. The index on the metadata stays: filters need it, whatever index finds the embeddings."""
        with self._database.dedicated() as connection:
            connection.execute(self._sql("drop_hnsw"))
        self._seen_at = float("-inf")

    @property
    def _hnsw_name(self) -> str:
        return f"embedding_{self._collection.id}_hnsw"

    @property
    def _gin_name(self) -> str:
        return f"chunk_{self._collection.id}_metadata"

    def _sql(self, name: str) -> str:
        return query(
            "indexes",
            name,
            self._collection.id,
            operators=_OPERATOR_CLASS[self.spec.precision, self.spec.metric],
            m=str(M),
            ef_construction=str(EF_CONSTRUCTION),
        )

    def _states(self) -> dict[str, tuple[bool, int]]:
        names = {"names": [self._hnsw_name, self._gin_name]}
        with self._database.connection() as connection:
            rows = connection.execute(query("indexes", "index_states"), names).fetchall()
        return {row[0]: (row[1], row[2]) for row in rows}

    def _sequence(self) -> int:
        with self._database.connection() as connection:
            row = connection.execute(
                "SELECT sequence FROM ragstone.collection WHERE id = %s", (self._collection.id,)
            ).fetchone()
        return int(row[0]) if row else 0

    def _build_filter_index(self, connection: Connection) -> None:
        if not self._states().get(self._gin_name, (False, 0))[0]:
            connection.execute(self._sql("drop_gin"))
            connection.execute(self._sql("create_gin"))
        connection.execute(self._sql("analyze_chunks"))

    def _build_hnsw(self, connection: Connection) -> None:
        if not self._states().get(self._hnsw_name, (False, 0))[0]:
            connection.execute(self._sql("drop_hnsw"))
            self._create_hnsw(connection)
        connection.execute(self._sql("analyze_embeddings"))

    @contextmanager
    def _build_lock(self) -> Iterator[Connection | None]:
        values = {"lock": BUILD_LOCK_SPACE, "collection_id": self._collection.id}
        with self._database.dedicated() as connection:
            row = connection.execute(query("indexes", "build_lock"), values).fetchone()
            assert row is not None
            self._builder = connection
            try:
                yield connection if row[0] else None
            finally:
                self._builder = None

    def _create_hnsw(self, connection: Connection) -> None:
        """Build in parallel; where shared memory is too small for that, alone."""
        started = time.monotonic()
        try:
            connection.execute(self._sql("create_hnsw"))
        except (psycopg.errors.DiskFull, psycopg.errors.OutOfMemory) as error:
            log.warning("building %s without parallel workers: %s", self._hnsw_name, error)
            connection.execute(self._sql("drop_hnsw"))
            connection.execute("SET max_parallel_maintenance_workers = 0")
            connection.execute(self._sql("create_hnsw"))
        log.info("built %s in %.1f s", self._hnsw_name, time.monotonic() - started)
