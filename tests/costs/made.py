"""Requests made up for tests, as observers are told of them."""

from datetime import UTC, datetime

import numpy as np

from backends.corpus.collections import CollectionState
from backends.types import IndexSpec
from retrieval.attribution import Tags
from retrieval.costing import Prices
from retrieval.documents import Usage
from retrieval.observing import AnswerObserved, SearchObserved


def collection(name: str = "handbook", backend: str = "pgvector", chunks: int = 1_000) -> CollectionState:
    """Return a collection that is in no corpus."""
    return CollectionState(
        id=1,
        name=name,
        spec=IndexSpec(dimension=2, metric="cosine", precision="half"),
        stamp={"embedder": {"model": "hashing"}},
        sequence=1,
        documents=1,
        chunks=chunks,
        backend=backend,
        index_id=1,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def searched(prices: Prices, tags: Tags, state: CollectionState, embed_s: float = 0.001) -> SearchObserved:
    """Return a search of a collection."""
    return SearchObserved(
        collection=state,
        backend=state.backend,
        embedding=np.array([1, 0], np.float32),
        filter=None,
        top_k=10,
        effort=None,
        tags=tags,
        cost=prices.of_retrieval(backend=state.backend, chunks=state.chunks, embed_s=embed_s),
    )


def answered(prices: Prices, tags: Tags, state: CollectionState, model: str, usage: Usage) -> AnswerObserved:
    """Return an answer from a collection, without its search."""
    return AnswerObserved(
        collection=state,
        model=model,
        outcome="ok",
        timings_ms={},
        usage=usage,
        tags=tags,
        cost=prices.of_generation(model, usage),
    )
