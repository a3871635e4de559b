"""A search, in the same three steps on every backend.

1. The index proposes candidates, more than were asked for, and says what it had applied.
2. One statement in the corpus joins them with the tail (what came later), drops what was deleted, applies the filter,
   scores exactly, orders, and returns text and metadata. For pgvector, steps 1 and 2 are one statement.
3. Where a filter left too few, the search widens; where the filter matches little enough, it is answered exactly.
"""

import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from backends.attached import AttachedIndex
from backends.corpus.collections import CollectionState, find_collection
from backends.corpus.database import Database
from backends.corpus.following import forgotten_up_to
from backends.corpus.search import (
    PlannedSearches,
    compare_selected,
    compare_settled,
    count_matching,
    join_candidates,
    join_candidates_of_many,
    matching_ids,
    run,
)
from backends.efforts import band_of, effort_of
from backends.errors import FilterTooExpensive, IndexUnavailable
from backends.filters import Filter
from backends.hits import Hit
from backends.pgvector import MAX_SCAN_TUPLES, PgvectorIndex
from backends.selections import UNKNOWN, Matching, Selections
from backends.types import Embeddings

OVERSAMPLING, MIN_CANDIDATES = 4, 40
"""Of an index whose scores are rough, or one that does not see the filter."""
SURPLUS, MIN_SURPLUS = 0.5, 10
"""Of one whose scores are the corpus's: for chunks that were deleted or changed since."""
WIDENING = 8
MAX_CANDIDATES = 10_000
EXACT_BELOW = 2_000
"""Matching chunks up to which comparing all of them is about as quick as asking an index beside the corpus."""
COMPARED_PER_PROPOSAL = 12
"""How many embeddings are compared while HNSW proposes one chunk and its metadata is looked at (784 dimensions)."""
SELECT_BELOW = 50_000
"""Matching chunks up to which their ids are remembered, and an index that can be told so proposes no others."""
MATCHING_BUDGET_MS = 50
COUNT_TTL_S = 30.0
IDS_TTL_S = 600.0
"""What was written since the ids were read, few chunks or none, is looked through in each search that uses them."""
SELECTION_TTL_S = 2.0
"""Short, for an index that is given the ids: what was written since they were read is part of the tail."""
AT_ONCE = 64
"""Queries that one statement answers."""
CATCH_UPS = 3
EXACT_FALLBACK_CHUNKS = 100_000


def candidates_for(top_k: int, *, rough: bool) -> int:
    """Return how many candidates an index beside the corpus is asked for first."""
    return max(top_k * OVERSAMPLING, MIN_CANDIDATES) if rough else top_k + max(int(top_k * SURPLUS), MIN_SURPLUS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The hits, nearest first, ties by id; which backend proposed them; whether every embedding was compared.

    `effort` is what the index was searched with, None for its default. `index_s` is what the index took where it is
    not in the corpus, 0 elsewhere; the rest of a search is the corpus's.
    """

    hits: list[Hit]
    backend: str
    exact: bool
    effort: int | None = None
    index_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked of an index, which may be asked again for more."""

    embedding: Embeddings
    top_k: int
    filter: Filter | None
    effort: int | None
    index_s: list[float] = field(default_factory=list)


class Searcher:
    """Searches one collection through one index. Safe to use from any thread."""

    def __init__(
        self,
        database: Database,
        collection: CollectionState,
        index: AttachedIndex,
        statement_budget_ms: int,
        exact_fallback_chunks: int = EXACT_FALLBACK_CHUNKS,
    ) -> None:
        self._database = database
        self._collection = collection
        self._attached = index
        self._index = index.index
        self._exact_settings = {"statement_timeout": str(statement_budget_ms)}
        self._exact_fallback_chunks = exact_fallback_chunks
        self._tuned = collection.efforts.get(self._index.name, {})
        selects = self._index.capabilities.selects_ids
        self._reads_ids = selects or isinstance(self._index, PgvectorIndex)
        self._selections = (
            Selections(SELECTION_TTL_S, SELECTION_TTL_S) if selects else Selections(COUNT_TTL_S, IDS_TTL_S)
        )

    def search(
        self,
        embedding: Embeddings,
        top_k: int,
        filter: Filter | None = None,
        exact: bool = False,
        effort: int | None = None,
    ) -> Found:
        """Find the `top_k` chunks nearest to one prepared query, float32 [d].

        Returns top_k chunks whenever top_k match, or raises FilterTooExpensive past the statement's budget. While
        the index is away, a collection of up to `exact_fallback_chunks` is searched exactly, and a larger one
        raises IndexUnavailable.
        """
        if exact or self._answers_exactly():
            return self._exact(embedding, top_k, filter)
        matching = UNKNOWN if filter is None else self._selections.get(filter, partial(self._matches, filter))
        if self._is_quicker_compared(matching, top_k):
            return self._exact(embedding, top_k, filter, matching)
        asked = _Question(embedding, top_k, filter, self._effort(effort, filter, matching))
        try:
            chunks = self._approximate(asked, matching)
        except IndexUnavailable:
            self._require_small()
            return self._exact(embedding, top_k, filter)
        return self._completed(asked, chunks, matching)

    def search_many(
        self,
        embeddings: Embeddings,
        top_k: int,
        filter: Filter | None = None,
        exact: bool = False,
        effort: int | None = None,
    ) -> list[Found]:
        """Find for each of several prepared queries, float32 [q, d], what `search` finds for it.

        The index is asked, and the corpus too, for AT_ONCE of them at a time. What is answered by comparing is
        compared one by one: there is nothing to be shared then. Raises what `search` raises, for all.
        """
        found: list[Found] = []
        for start in range(0, len(embeddings), AT_ONCE):
            some = embeddings[start : start + AT_ONCE]
            shared = [] if exact or len(some) == 1 else self._shared(some, top_k, filter, effort)
            found += shared or [self.search(one, top_k, filter, exact, effort) for one in some]
        return found

    def planned(self, embeddings: Embeddings, top_k: int) -> PlannedSearches | None:
        """Return the statement that does such searches without a filter, where it is known to be all that they take.

        Nobody is asked. `found` makes of its rows what `search_many` returns.
        """
        if not isinstance(self._index, PgvectorIndex):
            return None
        return self._index.planned(embeddings, top_k, self._effort(None, None, UNKNOWN))

    def found(self, planned: PlannedSearches, rows: list[tuple[Any, ...]], top_k: int) -> list[Found] | None:
        """Return what planned searches found; None where that is not enough, and all have to be done otherwise."""
        assert isinstance(self._index, PgvectorIndex)
        effort = self._effort(None, None, UNKNOWN)
        found = self._index.found(planned, rows)
        if found is None or any(len(hits) < top_k for hits in found):
            return None
        return [Found(hits=hits, backend=self._index.name, exact=False, effort=effort) for hits in found]

    def _shared(self, embeddings: Embeddings, top_k: int, filter: Filter | None, effort: int | None) -> list[Found]:
        """Ask the index for all of them at once; nothing where that is not the way to answer them."""
        if self._answers_exactly():
            return []
        matching = UNKNOWN if filter is None else self._selections.get(filter, partial(self._matches, filter))
        if self._is_quicker_compared(matching, top_k):
            return []
        chosen = self._effort(effort, filter, matching)
        asked = [_Question(embedding, top_k, filter, chosen) for embedding in embeddings]
        try:
            chunks = self._approximate_many(embeddings, asked, matching)
        except (IndexUnavailable, FilterTooExpensive):  # one by one they may fare better, or say why not
            return []
        return [self._completed(one, some, matching) for one, some in zip(asked, chunks, strict=True)]

    def _completed(self, asked: _Question, chunks: list[Hit], matching: Matching) -> Found:
        """What the index found, if that is enough, else all that matches compared."""
        matching.attempts.note(reached=len(chunks) >= asked.top_k)
        if len(chunks) < asked.top_k:
            # Short because nothing more matches, or because the index did not reach it: only the corpus knows.
            return self._exact(asked.embedding, asked.top_k, asked.filter, matching)
        return Found(
            hits=chunks,
            backend=self._index.name,
            exact=self._index.capabilities.exact,
            effort=asked.effort,
            index_s=sum(asked.index_s),
        )

    def _effort(self, asked: int | None, filter: Filter | None, matching: Matching) -> int | None:
        """The effort asked for, or what was tuned for so selective a filter, counted as far as it was counted."""
        if asked is not None or not self._tuned:
            return asked
        if filter is None:
            return effort_of(self._tuned, "all")
        known = matching.count is not None
        chunks = matching.chunks or self._collection.chunks
        return effort_of(self._tuned, band_of(matching.count, chunks) if known else None)

    def _answers_exactly(self) -> bool:
        return isinstance(self._index, PgvectorIndex) and not self._index.ready

    def _is_quicker_compared(self, matching: Matching, top_k: int) -> bool:
        """Whether comparing all that match takes less than asking the index, as far as is known.

        HNSW proposes chunks / count of its chunks for each that matches, if the filter has nothing to do with the
        query, so that both are even where count = COMPARED_PER_PROPOSAL x top_k x chunks / count.
        """
        if not isinstance(self._index, PgvectorIndex):
            return matching.count is not None and matching.count < EXACT_BELOW
        if matching.ids is None:
            return False
        even = COMPARED_PER_PROPOSAL * top_k * matching.chunks
        return len(matching.ids) ** 2 < even or not matching.attempts.pays()

    def _exact(self, embedding: Embeddings, top_k: int, filter: Filter | None, matching: Matching = UNKNOWN) -> Found:
        chunks = self._compared(embedding, top_k + 1, filter, matching)
        if len(chunks) > top_k and chunks[top_k].score == chunks[top_k - 1].score:
            chunks = self._compared(embedding, top_k, filter, matching, ties=True)
        return Found(hits=chunks[:top_k], backend=self._index.name, exact=True)

    def _compared(
        self, embedding: Embeddings, top_k: int, filter: Filter | None, matching: Matching, ties: bool = False
    ) -> list[Hit]:
        """Compare all that match: the ids that are known, or else every chunk is asked whether it does."""
        if filter is not None and matching.ids is not None:
            chunks = self._selected(embedding, top_k, filter, matching, ties)
            if chunks is not None:
                return chunks
        name = "exact" if filter is None else "exact_filtered"
        values: dict[str, Any] = {} if filter is None else {"filter": filter.jsonpath()}
        settings = self._exact_settings
        return run(self._database, self._collection, name, embedding, settings, ties=ties, top_k=top_k, **values)

    def _selected(
        self, embedding: Embeddings, top_k: int, filter: Filter, matching: Matching, ties: bool
    ) -> list[Hit] | None:
        """Compare the ids that are known, and what came later; where that is much they are read anew."""
        compared = partial(
            compare_selected, self._database, self._collection, embedding, self._selected_settings(), top_k=top_k
        )
        for _ in range(CATCH_UPS):
            if matching.ids is None:
                return None
            hits = self._settled(embedding, top_k, matching, ties)
            if hits is None:
                hits = compared(ids=matching.ids, applied=matching.sequence, filter=filter, ties=ties)
            if hits is not None:
                return hits
            matching = self._selections.renew(filter, partial(self._matches, filter))
        return None

    def _settled(self, embedding: Embeddings, top_k: int, matching: Matching, ties: bool) -> list[Hit] | None:
        """Compare the ids that are known, as long as nothing was written since they were read."""
        if matching.ids is None or matching.attempts.is_overtaken:
            return None
        hits = compare_settled(
            self._database,
            self._collection,
            embedding,
            self._selected_settings(),
            top_k=top_k,
            ids=matching.ids,
            sequence=matching.sequence,
            ties=ties,
        )
        matching.attempts.is_overtaken = hits is None
        return hits

    def _selected_settings(self) -> dict[str, str]:
        """Those of the approximate search where they do: changing them costs a round trip."""
        if isinstance(self._index, PgvectorIndex):
            return self._index.settings(1, None)
        return self._exact_settings

    def _approximate(self, asked: _Question, matching: Matching) -> list[Hit]:
        if isinstance(self._index, PgvectorIndex):
            proposals = matching.proposals(asked.top_k, MAX_SCAN_TUPLES)
            return self._index.nearest(asked.embedding, asked.top_k, asked.filter, asked.effort, proposals)
        wanted = candidates_for(asked.top_k, rough=asked.filter is not None or self._index.is_rough)
        while True:
            chunks, proposed = self._proposed(asked, matching, wanted)
            exhausted = proposed < wanted or wanted >= MAX_CANDIDATES
            if len(chunks) >= asked.top_k or exhausted:
                return chunks
            wanted = min(wanted * WIDENING, MAX_CANDIDATES)

    def _approximate_many(self, embeddings: Embeddings, asked: list[_Question], matching: Matching) -> list[list[Hit]]:
        first = asked[0]
        if isinstance(self._index, PgvectorIndex):
            proposals = matching.proposals(first.top_k, MAX_SCAN_TUPLES)
            return self._index.nearest_of_many(embeddings, first.top_k, first.filter, first.effort, proposals)
        wanted = candidates_for(first.top_k, rough=first.filter is not None or self._index.is_rough)
        found = self._proposed_many(embeddings, asked, matching, wanted)
        return [
            chunks if len(chunks) >= first.top_k else self._approximate(one, matching)
            for one, chunks in zip(asked, found, strict=True)
        ]

    def _proposed_many(
        self, embeddings: Embeddings, asked: list[_Question], matching: Matching, wanted: int
    ) -> list[list[Hit]]:
        """Return what the index proposes for each, joined with the tail; nothing where the tail is not whole."""
        first = asked[0]
        started_s = time.perf_counter()
        proposed = self._attached.search(embeddings, wanted, first.filter, first.effort, matching.ids)
        index_s = time.perf_counter() - started_s
        applied = proposed.applied if matching.ids is None else min(proposed.applied, matching.sequence)
        found, horizon = join_candidates_of_many(
            self._database,
            self._collection,
            embeddings,
            self._exact_settings,
            top_k=first.top_k,
            ids=proposed.ids,
            applied=applied,
            filter=first.filter,
        )
        if horizon is None or horizon > applied:
            return [[] for _ in asked]  # each is asked by itself, which catches up
        for one in asked:
            one.index_s.append(index_s)
        return found

    def _proposed(self, asked: _Question, matching: Matching, wanted: int) -> tuple[list[Hit], int]:
        """Return what the index proposes, joined with the whole tail, and how many chunks it proposed."""
        for _ in range(CATCH_UPS):
            queries = asked.embedding[None, :]
            started_s = time.perf_counter()
            proposed = self._attached.search(queries, wanted, asked.filter, asked.effort, matching.ids)
            asked.index_s.append(time.perf_counter() - started_s)
            applied = proposed.applied if matching.ids is None else min(proposed.applied, matching.sequence)
            chunks, horizon = join_candidates(
                self._database,
                self._collection,
                asked.embedding,
                self._exact_settings,
                top_k=asked.top_k,
                ids=proposed.ids[0],
                applied=applied,
                filter=asked.filter,
            )
            if horizon is None:
                horizon = forgotten_up_to(self._database, self._collection)
            if horizon <= applied:
                return chunks, len(proposed.ids[0])
            if horizon <= proposed.applied:  # the ids that match were read too long ago
                matching = UNKNOWN if asked.filter is None else self._matches(asked.filter)
            else:  # the tail that the index lacked is not remembered any more
                self._attached.catch_up()
        raise IndexUnavailable(
            f"the {self._index.name} index of {self._collection.name!r} cannot keep up with the writes; try again"
        )

    def _matches(self, filter: Filter, again: bool = True) -> Matching:
        """Look which chunks match, or how many where that is all that is of use, within a small budget.

        For one search with a filter that matches much it does not pay to read which chunks do.
        """
        if not self._reads_ids:
            count = count_matching(self._database, self._collection, filter, EXACT_BELOW, MATCHING_BUDGET_MS)
            return Matching(count)
        limit = SELECT_BELOW if again or self._index.capabilities.selects_ids else EXACT_BELOW
        found = matching_ids(self._database, self._collection, filter, limit, MATCHING_BUDGET_MS)
        if found is None:
            return Matching()
        ids, sequence, chunks = found
        if len(ids) >= limit:
            return Matching(len(ids), chunks, is_cut=limit < SELECT_BELOW)
        return Matching(len(ids), chunks, ids, sequence)

    def _require_small(self) -> None:
        chunks = find_collection(self._database, self._collection.name).chunks
        if chunks > self._exact_fallback_chunks:
            away = self._attached.away
            since = "" if away is None else f" since {away.since.isoformat(timespec='seconds')} ({away.reason})"
            raise IndexUnavailable(
                f"the {self._index.name} index of {self._collection.name!r} is away{since}, and {chunks} chunks are "
                f"more than exact_fallback_chunks ({self._exact_fallback_chunks}): try again when it is back"
            )
