"""Filtered searches through the library, beside raw approximate and raw exact search on the same tables.

A filter `{key: {"$lt": bound}}` matches 10 %, 1 % or 0.1 % of the rows. Under "unrelated" they are drawn at random;
under "near" they are the rows nearest to one row, and the queries are those nearest to it; under "far" the rows are
the same, and the queries are those farthest from it, so that nothing near a query matches.

Raw has what a careful user would give it: a B-tree on the number in the metadata; for approximate search an iterative
scan of HNSW (relaxed_order, 20,000 tuples) joined with the metadata, for exact search the distances to all that match.
Recall is against all distances in float64 on the values as they are kept.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector import HalfVector

from backends.types import Embeddings, Ids, IndexSpec
from backends.vectors import exact_scores, prepare
from benchmarks.raw import TOP_K, fresh, interleaved, query_text, raw_connection
from retrieval.collection import Collection
from retrieval.library import Ragstone

SHARES = (0.1, 0.01, 0.001)
QUERIES = 100
LEAST_RECALL = 0.99
_ITERATIVE = ("hnsw.iterative_scan = relaxed_order", "hnsw.max_scan_tuples = 20000", "enable_sort = off")
_RAW = {
    "raw_ann": (
        "SELECT {columns}, e.embedding {operator} %(query)s AS distance FROM {embedding} e "
        "JOIN {chunk} c ON c.id = e.chunk_id WHERE {number} < %(bound)s "
        "ORDER BY e.embedding {operator} %(query)s LIMIT %(top_k)s"
    ),
    "raw_exact": (
        "WITH nearest AS MATERIALIZED (SELECT c.id, (e.embedding {operator} %(query)s) + 0 AS distance "
        "FROM {chunk} c JOIN {embedding} e ON e.chunk_id = c.id WHERE {number} < %(bound)s "
        "ORDER BY distance LIMIT %(top_k)s) "
        "SELECT {columns}, n.distance FROM nearest n JOIN {chunk} c ON c.id = n.id ORDER BY n.distance"
    ),
}


@dataclass(frozen=True)
class _Case:
    """A key of the metadata with a row's number under it, int64 [n], and the queries that are asked, float32 [q, d]."""

    relation: str
    key: str
    numbers: Ids
    queries: Embeddings


def filtered(rag: Ragstone, train: Embeddings, queries: Embeddings, rounds: int) -> list[dict[str, Any]]:
    """Search with each filter through the library, raw approximately and raw exactly, in turn."""
    collection = fresh(rag, "filtered", train.shape[1])
    cases = _cases(train, queries)
    numbers = {case.key: case.numbers for case in cases}
    positions = range(len(train))
    names = [f"image-{position:08d}" for position in positions]
    texts = [f"This is the text of image {position}, about as long as a short caption." for position in positions]
    metadata = [{key: int(of_key[position]) for key, of_key in numbers.items()} for position in positions]
    collection.upsert_embeddings(names, train, texts, metadata)
    collection.wait_until_indexed()
    with raw_connection(rag) as connection:
        for key in numbers:
            connection.execute(query_text(f"CREATE INDEX ON {{chunk}} ({_number(key)})", _table(collection)))
        connection.execute(query_text("ANALYZE {chunk}", _table(collection)))
    return [_measured(rag, collection, train, case, share, rounds) for case in cases for share in SHARES]


def _cases(train: Embeddings, queries: Embeddings) -> list[_Case]:
    rng = np.random.default_rng(11)
    anchor = train[len(train) // 2]
    nearness = np.argsort(np.argsort(((train - anchor) ** 2).sum(axis=1)))
    order = np.argsort(((queries - anchor) ** 2).sum(axis=1))
    return [
        _Case("unrelated", "random", rng.permutation(len(train)), queries[:QUERIES]),
        _Case("near", "nearness", nearness, queries[order[:QUERIES]]),
        _Case("far", "nearness", nearness, queries[order[-QUERIES:]]),
    ]


def _measured(
    rag: Ragstone, collection: Collection, train: Embeddings, case: _Case, share: float, rounds: int
) -> dict[str, Any]:
    bound = int(len(train) * share)
    with raw_connection(rag, *_ITERATIVE) as ann, raw_connection(rag) as exact:
        raw = {"raw_ann": ann, "raw_exact": exact}
        calls: dict[str, Callable[[int], list[str]]] = {
            name: partial(_raw, connection, _raw_text(name, case.key, collection), case, bound)
            for name, connection in raw.items()
        }
        calls["ragstone"] = lambda position: [
            hit.id for hit in collection.search(case.queries[position], TOP_K, filter={case.key: {"$lt": bound}})
        ]
        recall = _recalls(calls, _truth(train, case, bound))
        times = interleaved(dict(calls), len(case.queries), rounds)
    p50_ms = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    good = [p50_ms[name] for name in raw if recall[name] >= LEAST_RECALL]
    return {
        "what": "filtered search",
        "relation": case.relation,
        "share": share,
        "p50_ms": {name: round(value, 3) for name, value in p50_ms.items()},
        "p99_ms": {name: round(float(np.percentile(values, 99)) * 1e3, 3) for name, values in times.items()},
        "recall": recall,
        "ratio_to_faster": round(p50_ms["ragstone"] / min(p50_ms[name] for name in raw), 3),
        "ratio_to_faster_of_recall_0.99": round(p50_ms["ragstone"] / min(good), 3) if good else None,
    }


def _raw(connection: psycopg.Connection[Any], text: str, case: _Case, bound: int, position: int) -> list[str]:
    values = {"query": HalfVector(case.queries[position]), "bound": bound, "top_k": TOP_K}
    return [row[0] for row in connection.execute(text, values, binary=True).fetchall()]


def _raw_text(name: str, key: str, collection: Collection) -> str:
    return query_text(_RAW[name], _table(collection), number=_number(key))


def _number(key: str) -> str:
    return f"((metadata->>'{key}')::int)"


def _table(collection: Collection) -> int:
    return collection._state.id  # the same tables, raw


def _truth(train: Embeddings, case: _Case, bound: int) -> list[set[str]]:
    spec = IndexSpec(dimension=train.shape[1], metric="l2")
    positions: NDArray[np.int64] = np.flatnonzero(case.numbers < bound)
    matching = prepare(train[positions], spec)
    found = []
    for query in prepare(case.queries, spec):
        best = np.argsort(-exact_scores(query, matching, spec), kind="stable")[:TOP_K]
        found.append({f"image-{position:08d}" for position in positions[best]})
    return found


def _recalls(calls: dict[str, Callable[[int], list[str]]], truth: list[set[str]]) -> dict[str, float]:
    """Recall@10; where fewer match, of those."""
    return {
        name: round(statistics.mean(len(true & set(call(i))) / len(true) for i, true in enumerate(truth)), 4)
        for name, call in calls.items()
    }
