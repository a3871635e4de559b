"""What the retriever tells of each request, to whoever watches: recall, latency and cost are measured from outside."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from backends.corpus.collections import CollectionState
from backends.types import Embeddings
from retrieval.attribution import NOBODY, Tags
from retrieval.costing import NO_COST, Cost
from retrieval.documents import Usage

NO_USAGE = Usage()

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchObserved:
    """One search and what came of it.

    `embedding` is the prepared query, float32 [d], or [0] where it could not be embedded. `filter` is as it was given.
    `effort` is what the index was searched with, None for its default. `ids` are those of the hits, `scores` theirs,
    best first. `exact` says that every embedding was compared, `asked_exactly` that this was asked for. `outcome` is
    "ok", or the code of the error that ended it; there are no hits then. `timings_ms` has the stages that were reached.
    `for_answer` says that an answer follows, which is told with this search.
    """

    collection: CollectionState
    backend: str
    embedding: Embeddings
    filter: Mapping[str, Any] | None
    top_k: int
    effort: int | None
    ids: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    exact: bool = False
    asked_exactly: bool = False
    outcome: str = "ok"
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    for_answer: bool = False
    tags: Tags = NOBODY
    cost: Cost = NO_COST


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerObserved:
    """One answer that was generated, told before its last event goes out, or when it ended early.

    `timings_ms` has the stages that were reached, "answer" from the question to the end. `usage` is what the model
    server counted; of an answer that broke off, what was sent and what had come by then. `cost` is that of generation
    alone. `first_s` is the time to the first piece and `generate_s` to the last, from when the model was asked, None
    where it did not come to that; `longest_gap_s` is the longest wait between two pieces. `search` is the search
    that found its passages.
    """

    collection: CollectionState
    model: str
    outcome: str
    timings_ms: Mapping[str, float]
    usage: Usage = NO_USAGE
    finish_reason: str | None = None
    refused: bool = False
    first_s: float | None = None
    generate_s: float | None = None
    longest_gap_s: float = 0.0
    streamed: bool = False
    max_tokens: int | None = None
    tags: Tags = NOBODY
    cost: Cost = NO_COST
    search: SearchObserved | None = None


Observed = SearchObserved | AnswerObserved
Observer = Callable[[Observed], None]


class Observers:
    """Those who watch. What goes wrong with one of them is logged, and is nobody else's trouble."""

    def __init__(self) -> None:
        self._observers: tuple[Observer, ...] = ()

    def __bool__(self) -> bool:
        return bool(self._observers)

    def add(self, observer: Observer) -> None:
        """Tell one more from now on.

        It is called in whatever thread answers. Of a search that may be an event loop, so that it must not wait for
        anybody then; of an answer it never is.
        """
        self._observers = (*self._observers, observer)

    def remove(self, observer: Observer) -> None:
        """Tell it no more."""
        self._observers = tuple(other for other in self._observers if other != observer)

    def tell(self, observed: Observed) -> None:
        """Tell every one of them."""
        for observer in self._observers:
            try:
                observer(observed)
            except Exception:  # a request is answered, whatever becomes of its observation
                log.exception("an observer failed")
