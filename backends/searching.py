"""A search, in the same three steps on every backend.

1. The index proposes candidates, more than were asked for, and says what it had applied.
2. One statement in the corpus joins them with the tail (what came later), drops what was deleted, applies the filter,
   scores exactly, orders, and returns text and metadata. For pgvector, steps 1 and 2 are one statement.
3. Where a filter left too few, the search widens; where the filter matches little enough, it is answered exactly.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backends.base import VectorIndex
from backends.corpus.collections import CollectionState
from backends.corpus.database import Database
from backends.corpus.following import bring_up_to_date, forgotten_up_to
from backends.corpus.search import FoundChunk, count_matching, run
from backends.filters import Filter
from backends.pgvector import PgvectorIndex
from backends.types import Candidates, Embeddings

OVERSAMPLING = 4
MIN_CANDIDATES = 40
WIDENING = 8
MAX_CANDIDATES = 10_000
EXACT_BELOW = 2_000
"""Matching chunks up to which comparing all of them is about as quick as the approximate search."""
COUNT_BUDGET_MS = 50
COUNT_TTL_S = 30.0
COUNTS_KEPT = 1_024

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The chunks, nearest first, ties by id; which backend proposed them; whether every embedding was compared."""

    chunks: list[FoundChunk]
    backend: str
    exact: bool


class Searcher:
    """Searches one collection. Safe to use from any thread."""

    def __init__(
        self,
        database: Database,
        collection: CollectionState,
        index: VectorIndex,
        statement_budget_ms: int,
    ) -> None:
        self._database = database
        self._collection = collection
        self._index = index
        self._exact_settings = {"statement_timeout": str(statement_budget_ms)}
        self._counts = _Counts()

    def search(
        self,
        embedding: Embeddings,
        top_k: int,
        filter: Filter | None = None,
        exact: bool = False,
        effort: int | None = None,
    ) -> Found:
        """Find the `top_k` chunks nearest to one prepared query, float32 [d].

        Returns top_k chunks whenever top_k match, or raises FilterTooExpensive past the statement's budget.
        """
        if exact or self._answers_exactly() or (filter is not None and self._matches_little(filter)):
            return self._exact(embedding, top_k, filter)
        if isinstance(self._index, PgvectorIndex):
            chunks = self._index.nearest(embedding, top_k, filter, effort)
        else:
            chunks = self._widening(embedding, top_k, filter, effort)
        if len(chunks) < top_k:
            # Short because nothing more matches, or because the index did not reach it: only the corpus knows.
            return self._exact(embedding, top_k, filter)
        return Found(chunks=chunks, backend=self._index.name, exact=self._index.capabilities.exact)

    def _answers_exactly(self) -> bool:
        return isinstance(self._index, PgvectorIndex) and not self._index.ready

    def _exact(self, embedding: Embeddings, top_k: int, filter: Filter | None) -> Found:
        chunks = self._compared(embedding, top_k + 1, filter)
        if len(chunks) > top_k and chunks[top_k].score == chunks[top_k - 1].score:
            chunks = self._compared(embedding, top_k, filter, ties=True)
        return Found(chunks=chunks[:top_k], backend=self._index.name, exact=True)

    def _compared(
        self, embedding: Embeddings, top_k: int, filter: Filter | None, ties: bool = False
    ) -> list[FoundChunk]:
        name = "exact" if filter is None else "exact_filtered"
        values: dict[str, Any] = {} if filter is None else {"filter": filter.jsonpath()}
        settings = self._exact_settings
        return run(self._database, self._collection, name, embedding, settings, ties=ties, top_k=top_k, **values)

    def _widening(
        self, embedding: Embeddings, top_k: int, filter: Filter | None, effort: int | None
    ) -> list[FoundChunk]:
        wanted = max(top_k * OVERSAMPLING, MIN_CANDIDATES)
        while True:
            proposed = self._index.search(embedding[None, :], wanted, filter, effort)
            chunks = self._joined(embedding, top_k, filter, proposed)
            if forgotten_up_to(self._database, self._collection) > proposed.applied:
                # The tail that the index lacked is not remembered any more: it has to catch up first.
                bring_up_to_date(self._database, self._collection, self._index)
                continue
            exhausted = len(proposed.ids[0]) < wanted or wanted >= MAX_CANDIDATES
            if len(chunks) >= top_k or exhausted:
                return chunks
            wanted = min(wanted * WIDENING, MAX_CANDIDATES)

    def _joined(
        self, embedding: Embeddings, top_k: int, filter: Filter | None, proposed: Candidates
    ) -> list[FoundChunk]:
        values: dict[str, Any] = {} if filter is None else {"filter": filter.jsonpath()}
        return run(
            self._database,
            self._collection,
            "candidates",
            embedding,
            self._exact_settings,
            top_k=top_k,
            ids=proposed.ids[0].tolist(),
            applied=proposed.applied,
            **values,
        )

    def _matches_little(self, filter: Filter) -> bool:
        count = self._counts.get(
            filter,
            lambda: count_matching(self._database, self._collection, filter, EXACT_BELOW, COUNT_BUDGET_MS),
        )
        return count is not None and count < EXACT_BELOW


class _Counts:
    """How many chunks match a filter, remembered for a while: it steers the search and never changes its hits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Filter, tuple[float, int | None]] = OrderedDict()

    def get(self, filter: Filter, count: Callable[[], int | None]) -> int | None:
        now = time.monotonic()
        with self._lock:
            kept = self._kept.get(filter)
        if kept is not None and now - kept[0] < COUNT_TTL_S:
            return kept[1]
        found = count()
        with self._lock:
            self._kept[filter] = now, found
            self._kept.move_to_end(filter)
            while len(self._kept) > COUNTS_KEPT:
                self._kept.popitem(last=False)
        return found
