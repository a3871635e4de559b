"""What the observers are told of a search, and of an answer when it has ended, however that came."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backends.corpus.collections import CollectionState
from backends.errors import RagstoneError
from backends.filters import Filter
from backends.searching import Found
from backends.types import Embeddings
from retrieval.attribution import Tags, current_tags
from retrieval.costing import NO_COST, Cost
from retrieval.generation.answering import Answering
from retrieval.observing import AnswerObserved, SearchObserved

ABANDONED = "abandoned"
"""The outcome of an answer that its reader did not wait for."""
UNEXPECTED = "unexpected"
"""The outcome where an error that is none of ours ended it."""
NO_EMBEDDING: Embeddings = np.empty(0, np.float32)
"""What is told in the place of a query's embedding where it could not be embedded."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a search asks for, since when and for whom; `given` is the filter as it came."""

    top_k: int
    given: Any
    filter: Filter | None
    exact: bool = False
    for_answer: bool = False
    started_s: float = field(default_factory=time.perf_counter)
    tags: Tags = field(default_factory=current_tags)


def observed_search(
    collection: CollectionState,
    embedding: Embeddings,
    asked: Asked,
    timings_ms: Mapping[str, float],
    *,
    found: Found | None = None,
    outcome: str = "ok",
    cost: Cost = NO_COST,
) -> SearchObserved:
    """Return what observers are told of a search; to its stages this adds "total", from the question to now."""
    hits = [] if found is None else found.hits
    return SearchObserved(
        collection=collection,
        backend=collection.backend,
        embedding=embedding,
        filter=asked.given,
        top_k=asked.top_k,
        effort=None if found is None else found.effort,
        ids=[hit.id for hit in hits],
        scores=[hit.score for hit in hits],
        exact=found is not None and found.exact,
        asked_exactly=asked.exact,
        outcome=outcome,
        timings_ms={**timings_ms, "total": _ms_since(asked.started_s)},
        for_answer=asked.for_answer,
        tags=asked.tags,
        cost=cost,
    )


def observed_answer(
    collection: CollectionState,
    model: str,
    asked: Asked,
    search: SearchObserved | None,
    answering: Answering | None,
    error: BaseException | None,
) -> AnswerObserved:
    """Return what observers are told of an answer; to its stages this adds "answer", from the question to now.

    `answering` is None where it did not begin: it had no turn, was refused, or its search failed.
    """
    outcome, answer_ms = _outcome(error), _ms_since(asked.started_s)
    if answering is None:
        return AnswerObserved(
            collection=collection,
            model=model,
            outcome=outcome,
            timings_ms={"answer": answer_ms},
            tags=current_tags(),
            search=search,
        )
    answering.left = outcome == ABANDONED
    clock = answering.clock
    return AnswerObserved(
        collection=collection,
        model=model,
        outcome=outcome,
        timings_ms={**answering.timings_ms, "answer": answer_ms},
        usage=answering.usage,
        finish_reason=answering.finish_reason,
        refused=answering.prompt is None,
        first_s=clock.since_asked_s(clock.first_s),
        generate_s=clock.since_asked_s(clock.last_s),
        longest_gap_s=clock.longest_gap_s,
        streamed=answering.streamed,
        max_tokens=answering.max_tokens,
        tags=answering.tags,
        cost=answering.cost,
        search=search,
    )


def _outcome(error: BaseException | None) -> str:
    match error:
        case None:
            return "ok"
        case RagstoneError():
            return error.code
        case GeneratorExit() | asyncio.CancelledError():
            return ABANDONED
        case _:
            return UNEXPECTED


def _ms_since(started_s: float) -> float:
    return round((time.perf_counter() - started_s) * 1000, 3)
