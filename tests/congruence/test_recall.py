"""Default searches where indexes are approximate: ten hits whenever ten match, and the right ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from backends.base import VectorIndex
from backends.corpus.collections import CollectionState
from backends.corpus.database import Database
from backends.corpus.following import bring_up_to_date, rebuild
from backends.corpus.writing import write
from backends.filters import parse
from backends.pgvector import PgvectorIndex
from backends.types import IndexSpec, Metric
from backends.vectors import exact_scores, prepare
from retrieval.config import Settings
from retrieval.placement import open_index
from tests.congruence.conftest import METRICS
from tests.corpora import TAIL_LIMIT, made_collection, put, random_embeddings, searcher
from tests.stores import Stores

COUNT, DIMENSION, TOP_K = 3_000, 16, 10
REPLACED, DELETED = 300, 100
QUERIES = 20
RECALL = 0.95

IDS = [f"d{n:04d}" for n in range(COUNT)]
METADATA = [{"half": n % 2, "tenth": n % 10, "hundredth": n % 100} for n in range(COUNT)]
FILTERS: list[dict[str, Any] | None] = [None, {"half": 0}, {"tenth": 3}, {"hundredth": 7}]
MEASURED: list[tuple[str, Metric, str]] = [
    ("memory", "cosine", "auto"),
    *(("pgvector", metric, "auto") for metric in METRICS),
    ("faiss", "cosine", "auto"),
    *(("faiss", metric, "hnsw") for metric in METRICS),
    ("weaviate", "l2", "auto"),
    ("pinecone", "inner_product", "auto"),
]


@pytest.mark.parametrize(("backend", "metric", "kind"), MEASURED)
def test_every_backend_finds_what_is_near(
    database: Database, stores: Stores, name: str, no_short_cut: None, backend: str, metric: Metric, kind: str
) -> None:
    """With filters of several widths, some rows replaced and some deleted since the build: recall@10 of 0.95."""
    spec = IndexSpec(dimension=DIMENSION, metric=metric)
    settings = stores.settings(backend, faiss_kind=kind)
    queries = prepare(random_embeddings(COUNT + QUERIES, DIMENSION)[-QUERIES:], spec)
    with made_collection(database, name, spec, backend) as collection, _filled(database, collection, settings) as index:
        asked = searcher(database, collection, index)
        for given_filter in FILTERS:
            found = [asked.search(query, TOP_K, parse(given_filter)) for query in queries]
            assert all(len(one.hits) == TOP_K for one in found)
            assert all(one.exact for one in found) == index.capabilities.exact  # it is the index that answers
            true = [_nearest(query, spec, given_filter) for query in queries]
            shared = [len({chunk.id for chunk in one.hits} & near) for one, near in zip(found, true, strict=True)]
            assert np.mean(shared) / TOP_K >= RECALL, given_filter


@contextmanager
def _filled(database: Database, collection: CollectionState, settings: Settings) -> Iterator[VectorIndex]:
    """Write the rows, build the index, and let it follow what comes later."""
    embeddings = random_embeddings(COUNT, DIMENSION)
    put(database, collection, IDS, embeddings, METADATA)
    index = open_index(database, collection, settings)
    try:
        rebuild(database, collection, index)
        put(database, collection, IDS[:REPLACED], embeddings[:REPLACED], METADATA[:REPLACED])
        write(database, collection, lambda change: change.delete_documents(IDS[-DELETED:]), TAIL_LIMIT)
        bring_up_to_date(database, collection, index)
        assert not isinstance(index, PgvectorIndex) or index.ready
        yield index
    finally:
        index.drop()
        index.close()


def _nearest(query: np.ndarray, spec: IndexSpec, given_filter: dict[str, Any] | None) -> set[str]:
    """Return the ids of the nearest that match and are there."""
    parsed = parse(given_filter)
    rows = [n for n in range(COUNT - DELETED) if parsed is None or parsed.matches(METADATA[n])]
    scores = exact_scores(query, prepare(random_embeddings(COUNT, DIMENSION)[rows], spec), spec)
    return {IDS[rows[at]] for at in np.argsort(-scores)[:TOP_K]}
