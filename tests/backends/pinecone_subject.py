"""An index in a made-up Pinecone, and what the tests of it write."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from backends.pinecone import PineconeIndex
from backends.types import Batch, Change, IndexIdentity, IndexSpec, Metric
from backends.vectors import prepare
from tests.corpora import random_embeddings
from tests.fakes.pinecone_server import API_KEY, FakePinecone

IDENTITY = IndexIdentity(collection_id=7, system_identifier=7_234_567_890_123_456_789, timeline=1, index_id=3)


def spec_of(metric: Metric = "cosine", dimension: int = 8) -> IndexSpec:
    """The spec of most tests."""
    return IndexSpec(dimension=dimension, metric=metric)


@contextmanager
def pinecone_index(
    server: FakePinecone, spec: IndexSpec | None = None, identity: IndexIdentity = IDENTITY, **given: Any
) -> Iterator[PineconeIndex]:
    """Open an index on the server, and close it."""
    settings: dict[str, Any] = {"api_key": API_KEY, "host": server.url, "timeout_s": 5.0} | given
    index = PineconeIndex(spec or spec_of(), identity, **settings)
    try:
        yield index
    finally:
        index.close()


def batch(
    ids: Sequence[int], spec: IndexSpec | None = None, attributes: list[dict[str, Any]] | None = None, seed: int = 0
) -> Batch:
    """Make up chunks with these ids."""
    used = spec or spec_of()
    embeddings = prepare(random_embeddings(max(1, len(ids)), used.dimension, seed), used)[: len(ids)]
    return batch_of(ids, embeddings, attributes)


def batch_of(ids: Sequence[int], embeddings: np.ndarray, attributes: list[dict[str, Any]] | None = None) -> Batch:
    """Bring ids and embeddings together."""
    return Batch(
        ids=np.array(ids, dtype=np.int64),
        embeddings=embeddings.astype(np.float32),
        attributes=attributes or [{} for _ in ids],
    )


def change(sequence: int, upserts: Batch | None = None, deletes: Sequence[int] = ()) -> Change:
    """Make one change."""
    return Change(sequence=sequence, upserts=upserts or batch([]), deletes=np.array(deletes, dtype=np.int64))


def query(spec: IndexSpec | None = None, seed: int = 9) -> np.ndarray:
    """Make one query, float32 [1, d]."""
    used = spec or spec_of()
    return prepare(random_embeddings(1, used.dimension, seed), used)


def found(index: PineconeIndex, candidates: int = 100) -> set[int]:
    """Search for everything."""
    return set(index.search(query(index.spec), candidates).ids[0].tolist())


def held(index: PineconeIndex) -> list[int]:
    """List all ids."""
    return sorted(id_ for ids in index.ids() for id_ in ids.tolist())
