"""Puts queries into the corpus as if users had asked them, and reads what became of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psycopg
from psycopg.types.json import Jsonb

from backends.corpus.collections import CollectionState, find_collection
from backends.corpus.observations import (
    CapturedQuery,
    NewCapture,
    capture,
    captured_queries,
)
from backends.efforts import Band
from backends.vectors import prepare, prepare_one
from retrieval import Collection, Ragstone

DIMENSION = 48
CHUNKS = 2_400


@dataclass(frozen=True)
class Asked:
    """A collection, and what is asked of it."""

    rag: Ragstone
    collection: Collection

    @property
    def name(self) -> str:
        return self.collection.name

    @property
    def state(self) -> CollectionState:
        return find_collection(self.rag.database, self.name)

    def put(
        self, ids: Sequence[str], at: Sequence[Sequence[float]], metadata: list[dict[str, Any]] | None = None
    ) -> None:
        """Write documents at these places."""
        self.collection.upsert_embeddings(ids, np.array(at, np.float32), ["text"] * len(ids), metadata)

    def captured(self, embedding: Sequence[float], found: dict[str, float], **given: Any) -> CapturedQuery:
        """Capture a query that found these ids with these scores, on the collection as it stands."""
        new = NewCapture(
            collection_id=self.collection.id,
            backend="pgvector",
            embedding=prepare_one(np.asarray(embedding, np.float32), self.state.spec, "embedding"),
            filter=None,
            top_k=10,
            effort=None,
            ids=list(found),
            scores=list(found.values()),
            exact=False,
            sequence=self.state.sequence,
            search_ms=5.0,
        )
        assert capture(self.rag.database, replace(new, **given)) is not None
        return self.kept()[0]

    def kept(self) -> list[CapturedQuery]:
        """The captured queries, newest first."""
        return captured_queries(self.rag.database, self.collection.id, 10_000)

    def captured_all(self, embeddings: np.ndarray, **given: Any) -> None:
        """Capture queries of which it does not matter what they found, in one go."""
        prepared = prepare(embeddings, self.state.spec)
        values = {
            "collection": self.collection.id,
            "effort": given.get("effort"),
            "filter": Jsonb(given["filter"]) if "filter" in given else None,
            "embeddings": [one.astype("<f4").tobytes() for one in prepared],
        }
        with self.sql() as connection:
            connection.execute(
                """INSERT INTO ragstone.captured_query
                       (collection_id, backend, embedding, filter, top_k, effort, ids, scores, exact, sequence,
                        search_ms)
                   SELECT %(collection)s, 'pgvector', unnest(%(embeddings)s::bytea[]), %(filter)s, 10, %(effort)s,
                          '{}', '{}', false, 0, 5""",
                values,
            )

    def measured(self, recalls: Sequence[float], band: Band = "all", **given: Any) -> None:
        """Capture queries that turned out to have these recalls, in one go."""
        values = {
            "collection": self.collection.id,
            "recalls": list(recalls),
            "band": band,
            "backend": "pgvector",
            "effort": None,
            "exact": False,
            "search_ms": 5.0,
        }
        with self.sql() as connection:
            connection.execute(
                """INSERT INTO ragstone.captured_query
                       (collection_id, backend, embedding, top_k, effort, ids, scores, exact, sequence, search_ms,
                        measured_at, recall, distance_ratio, band, short)
                   SELECT %(collection)s, %(backend)s, '', 10, %(effort)s, '{}', '{}', %(exact)s, 0, %(search_ms)s,
                          now(), unnest(%(recalls)s::float8[]), 1, %(band)s, false""",
                values | given,
            )

    def forget(self) -> None:
        """Forget what was asked, measured and tuned."""
        with self.sql() as connection:
            for table in ("captured_query", "recall_history", "tuning"):
                connection.execute(f"DELETE FROM ragstone.{table} WHERE collection_id = %s", (self.collection.id,))
            connection.execute("UPDATE ragstone.collection SET efforts = '{}' WHERE id = %s", (self.collection.id,))

    def row(self, captured: CapturedQuery) -> dict[str, Any]:
        """What is written down of a captured query."""
        columns = "measured_at IS NOT NULL, recall, distance_ratio, matching, band, short"
        with self.sql() as connection:
            row = connection.execute(
                f"SELECT {columns} FROM ragstone.captured_query WHERE id = %s", (captured.id,)
            ).fetchone()
        assert row is not None
        return dict(zip(("measured", "recall", "distance_ratio", "matching", "band", "short"), row, strict=True))

    @contextmanager
    def sql(self) -> Iterator[psycopg.Connection[Any]]:
        with self.rag.database.connection() as connection:
            yield connection


def embeddings(count: int, seed: int) -> np.ndarray:
    """Return float32 [count, DIMENSION], spread evenly."""
    return np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)
