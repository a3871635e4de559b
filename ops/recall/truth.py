"""What a search should have found, from the corpus, and what it finds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from backends.attached import AttachedIndex
from backends.corpus.collections import CollectionState
from backends.corpus.database import Database
from backends.corpus.observations import CapturedQuery, Measured
from backends.corpus.search import count_matching
from backends.efforts import Band, band_of
from backends.errors import FilterTooExpensive
from backends.filters import Filter, parse
from backends.searching import Found, Searcher
from backends.types import Embeddings, Metric
from ops.measures import distance_ratio, recall_at_k
from retrieval.library import Ragstone
from retrieval.placement import DEFAULT_BACKEND, open_index

EXACT_BUDGET_MS = 120_000
COUNT_BUDGET_MS = 30_000
WIDEST_BAND = 0.1
"""Matching chunks are counted up to this share of the collection: beyond, the band is the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked: a prepared embedding, float32 [d]. `drawn` says that nobody asked it so."""

    embedding: Embeddings
    filter: Filter | None
    top_k: int
    drawn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """The scores of the true nearest chunks, best first; how many chunks match, counted as far as the band needs."""

    scores: list[float]
    matching: int | None
    band: Band


def question_of(captured: CapturedQuery) -> Question:
    """Return a captured query as it was asked."""
    return Question(embedding=captured.embedding, filter=parse(captured.filter), top_k=captured.top_k)


class Examiner:
    """Knows the truth of one collection as it stands, and what its index finds. For one thread.

    Exact searches go through `gentle`, so that users' go first; others as a user's would.
    """

    def __init__(self, rag: Ragstone, gentle: Database, collection: CollectionState) -> None:
        self.collection = collection
        self._rag = rag
        self._gentle = gentle
        # Whatever serves, an exact search asks the corpus alone; an index there has nothing to connect to or to load.
        in_corpus = open_index(gentle, replace(collection, backend=DEFAULT_BACKEND), rag.settings)
        self._exact = Searcher(gentle, collection, AttachedIndex(gentle, collection, in_corpus), EXACT_BUDGET_MS)

    @cached_property
    def attached(self) -> AttachedIndex:
        """The index that serves, as this process has it open."""
        return self._rag.indexes.attach(self.collection)

    def truth(self, question: Question) -> Truth:
        """Find the true nearest; raises FilterTooExpensive where the corpus takes too long for it."""
        found = self._exact.search(question.embedding, question.top_k, question.filter, exact=True)
        return self.truth_of([hit.score for hit in found.hits], question)

    def truth_of(self, scores: list[float], question: Question) -> Truth:
        """Complete what is known of the true nearest by how selective the filter is."""
        matching = self._matching(question, len(scores))
        return Truth(scores=scores, matching=matching, band=band_of(matching, self.collection.chunks))

    def found(self, question: Question, effort: int | None = None) -> Found:
        """Search as users do: with the effort that was tuned, or with this one."""
        return self._tuned.search(question.embedding, question.top_k, question.filter, effort=effort)

    def found_untuned(self, question: Question, effort: int | None) -> Found:
        """Search with this effort, None for the settings' own, whatever was tuned since."""
        return self._untuned.search(question.embedding, question.top_k, question.filter, effort=effort)

    @cached_property
    def _tuned(self) -> Searcher:
        return self._searcher(self.collection)

    @cached_property
    def _untuned(self) -> Searcher:
        return self._searcher(replace(self.collection, efforts={}))

    def _searcher(self, collection: CollectionState) -> Searcher:
        settings = self._rag.settings
        return Searcher(
            self._rag.database,
            collection,
            self.attached,
            settings.statement_budget_ms,
            settings.exact_fallback_chunks,
        )

    def _matching(self, question: Question, found: int) -> int | None:
        if question.filter is None:
            return None
        if found < question.top_k:
            return found  # all there are
        limit = max(math.ceil(WIDEST_BAND * self.collection.chunks), question.top_k)
        matching = count_matching(self._gentle, self.collection, question.filter, limit, COUNT_BUDGET_MS)
        if matching is None:
            raise FilterTooExpensive(
                f"counting what matches a filter in {self.collection.name!r} took longer than {COUNT_BUDGET_MS} ms"
            )
        return matching


def compare(ids: Sequence[str], scores: Sequence[float], truth: Truth, question: Question, metric: Metric) -> Measured:
    """Compare hits, best first, with the truth."""
    wanted = min(question.top_k, len(truth.scores))
    if not wanted:
        return Measured(matching=truth.matching, band=truth.band)
    return Measured(
        recall=recall_at_k(ids, scores, truth.scores, question.top_k),
        distance_ratio=_ratio(scores, truth.scores, metric),
        matching=truth.matching,
        band=truth.band,
        short=len(ids) < wanted,
    )


def _ratio(scores: Sequence[float], true_scores: Sequence[float], metric: Metric) -> float | None:
    """An inner product is no distance: there is no ratio of two."""
    if metric == "inner_product":
        return None
    offset = 1.0 if metric == "cosine" else 0.0
    return distance_ratio([offset - score for score in scores], [offset - score for score in true_scores])
