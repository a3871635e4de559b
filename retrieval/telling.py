"""What the observers are told of a search, and of an answer while it streams to whoever asked."""

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backends.corpus.collections import CollectionState
from backends.errors import RagstoneError
from backends.filters import Filter
from backends.searching import Found
from backends.types import Embeddings
from retrieval.documents import AnswerEvent, Event, TextEvent, Usage
from retrieval.observing import AnswerObserved, Observers, SearchObserved

ABANDONED = "abandoned"
"""The outcome of an answer that its reader did not wait for."""
UNEXPECTED = "unexpected"
"""The outcome where an error that is none of ours ended it."""
NO_EMBEDDING: Embeddings = np.empty(0, np.float32)
"""What is told in the place of a query's embedding where it could not be embedded."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a search asks for, and since when; `given` is the filter as it came."""

    top_k: int
    given: Any
    filter: Filter | None
    exact: bool = False
    started_s: float = field(default_factory=time.perf_counter)


@dataclass(slots=True)
class _Told:
    """What is known of an answer so far."""

    timings_ms: dict[str, float]
    outcome: str = ABANDONED
    model: str = ""
    usage: Usage = field(default_factory=Usage)


def observed_search(
    collection: CollectionState,
    embedding: Embeddings,
    asked: Asked,
    timings_ms: Mapping[str, float],
    found: Found | None,
    outcome: str,
) -> SearchObserved:
    """Return what observers are told of a search; to its stages this adds "total", from the question to now."""
    chunks = [] if found is None else found.chunks
    return SearchObserved(
        collection=collection,
        backend=collection.backend,
        embedding=embedding,
        filter=asked.given,
        top_k=asked.top_k,
        effort=None if found is None else found.effort,
        ids=[chunk.id for chunk in chunks],
        scores=[chunk.score for chunk in chunks],
        exact=found is not None and found.exact,
        asked_exactly=asked.exact,
        outcome=outcome,
        timings_ms={**timings_ms, "total": _ms_since(asked.started_s)},
    )


def told(
    events: Generator[Event, None, None],
    observers: Observers,
    collection: CollectionState,
    timings_ms: Mapping[str, float],
    started_s: float,
) -> Iterator[Event]:
    """Pass an answer's events on, and tell the observers how it ended: once, when it has, however that comes.

    `timings_ms` are the stages before, `started_s` when the question came, on `time.perf_counter`. To the stages
    this adds "answer", from then to the end.
    """
    so_far = _Told(dict(timings_ms))
    generating_s = time.perf_counter()
    try:
        with closing(events):
            for event in events:
                _note(so_far, event, generating_s)
                yield event
    except RagstoneError as error:
        so_far.outcome = error.code
        raise
    except Exception:
        so_far.outcome = UNEXPECTED
        raise
    finally:
        so_far.timings_ms["answer"] = _ms_since(started_s)
        observers.tell(_observed(so_far, collection))


def _note(so_far: _Told, event: Event, generating_s: float) -> None:
    if isinstance(event, TextEvent):
        so_far.timings_ms.setdefault("generate_first", _ms_since(generating_s))
    elif isinstance(event, AnswerEvent):  # whole: whoever leaves now has missed nothing
        so_far.outcome = "ok"
        so_far.model = event.answer.model
        so_far.usage = event.answer.usage
        so_far.timings_ms = dict(event.answer.timings_ms)


def _observed(so_far: _Told, collection: CollectionState) -> AnswerObserved:
    return AnswerObserved(
        collection=collection,
        model=so_far.model,
        outcome=so_far.outcome,
        timings_ms=so_far.timings_ms,
        prompt_tokens=so_far.usage.prompt_tokens,
        completion_tokens=so_far.usage.completion_tokens,
    )


def _ms_since(started_s: float) -> float:
    return round((time.perf_counter() - started_s) * 1000, 3)
