"""Small corpora for tests: collections of made-up embeddings, and what they should answer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from backends.attached import AttachedIndex
from backends.base import VectorIndex
from backends.corpus.collections import CollectionState, create_collection, delete_collection
from backends.corpus.database import Database
from backends.searching import Searcher
from backends.types import IndexSpec
from retrieval.bulk import check_bulk, upsert_bulk

TAIL_LIMIT = 2_000
BUDGET_MS = 10_000


@contextmanager
def made_collection(
    database: Database, name: str, spec: IndexSpec, backend: str = "pgvector"
) -> Iterator[CollectionState]:
    """Create an empty collection, and drop it at the end."""
    state = create_collection(database, name, spec, None, backend)
    try:
        yield state
    finally:
        delete_collection(database, name)


def put(
    database: Database,
    collection: CollectionState,
    ids: Sequence[str],
    embeddings: object,
    metadata: Sequence[dict[str, Any]] | None = None,
    tail_limit: int = TAIL_LIMIT,
) -> None:
    """Upsert embeddings whose texts say their ids."""
    rows = check_bulk(ids, embeddings, [f"text of {id_}" for id_ in ids], metadata, collection)
    upsert_bulk(database, collection, rows, tail_limit)


def random_embeddings(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    """Return float32 [count, dimension] around a few centres, as real embeddings lie."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, count // 50), dimension))
    points = centres[rng.integers(0, len(centres), count)] + 0.5 * rng.normal(size=(count, dimension))
    return points.astype(np.float32)


def searcher(database: Database, collection: CollectionState, index: VectorIndex, **given: int) -> Searcher:
    """Return what searches the collection through this index."""
    return Searcher(database, collection, AttachedIndex(database, collection, index), BUDGET_MS, **given)
