"""Observations made up for tests, and what a recorder makes of them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from fractions import Fraction

import numpy as np

from backends.corpus.collections import CollectionState
from backends.types import IndexSpec
from retrieval.documents import Usage
from retrieval.observing import AnswerObserved, SearchObserved


def collection(name: str = "handbook", backend: str = "pgvector") -> CollectionState:
    """Return a collection that is in no corpus."""
    return CollectionState(
        id=1,
        name=name,
        spec=IndexSpec(dimension=2, metric="cosine", precision="half"),
        stamp={"embedder": {"model": "hashing"}},
        sequence=1,
        documents=1,
        chunks=1,
        backend=backend,
        index_id=1,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def searched(
    name: str = "handbook", backend: str = "pgvector", outcome: str = "ok", **timings_ms: float
) -> SearchObserved:
    """Return a search of such a collection, with these stages."""
    return SearchObserved(
        collection=collection(name, backend),
        backend=backend,
        embedding=np.array([1, 0], np.float32),
        filter={"user": "a secret user"},
        top_k=10,
        effort=None,
        ids=["a secret document"],
        scores=[1.0],
        outcome=outcome,
        timings_ms=timings_ms,
    )


def answered(outcome: str = "ok", *, search: SearchObserved | None = None, **timings_ms: float) -> AnswerObserved:
    """Return an answer from such a collection, of 20 tokens, the first 50 ms and the last a second after asking."""
    return AnswerObserved(
        collection=collection(),
        model="a-model",
        outcome=outcome,
        timings_ms=timings_ms,
        usage=Usage(prompt_tokens=100, completion_tokens=20, cached_tokens=64),
        finish_reason="stop" if outcome == "ok" else None,
        first_s=0.05,
        generate_s=1.0,
        longest_gap_s=0.2,
        streamed=True,
        max_tokens=200,
        search=search,
    )


def raw_percentile(samples: Sequence[float], percent: float) -> float:
    """Return the least sample that at least `percent` of all do not exceed, by counting."""
    needed = Fraction(str(percent)) / 100 * len(samples)
    return next(sample for rank, sample in enumerate(sorted(samples), start=1) if rank >= needed)
