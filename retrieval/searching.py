"""Searches in one collection: where they go, what they take, and who is told of them."""

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.attached import AttachedIndex
from backends.corpus.collections import CollectionState, find_collection
from backends.corpus.search import PlannedSearches
from backends.errors import RagstoneError
from backends.filters import parse
from backends.pgvector import PgvectorIndex
from backends.searching import Found, Searcher
from backends.types import Embeddings
from backends.vectors import prepare_one
from retrieval.checking import check_top_k
from retrieval.costing import NO_COST, Cost
from retrieval.documents import Retrieval
from retrieval.generation.tokens import estimate_tokens
from retrieval.observing import SearchObserved
from retrieval.telling import NO_EMBEDDING, Asked, observed_search

if TYPE_CHECKING:
    from retrieval.library import Ragstone

ROUTE_TTL_S = 1.0


@dataclass(frozen=True, slots=True)
class Route:
    """Where searches go: the collection as it was when asked, the index that served it then, and what searches it."""

    state: CollectionState
    index: AttachedIndex
    searcher: Searcher


@dataclass(frozen=True, slots=True)
class Query:
    """A query that can be searched for: its embedding, what making it took, and the tokens that are paid for."""

    embedding: Embeddings
    timings_ms: dict[str, float] = field(default_factory=dict)
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search found, and what the observers were told of it."""

    retrieval: Retrieval
    observed: SearchObserved | None


class Searches:
    """What a collection is searched with, following it from index to index. Safe from any thread."""

    def __init__(self, rag: "Ragstone", state: CollectionState) -> None:
        self._rag = rag
        self._state = state
        self.latest = state
        """The collection as it was last seen."""
        self.route = self._routed(state, rag.indexes.attach(state))
        self._looked_s = time.monotonic()
        self._bare_cost: tuple[tuple[str, int], Cost] = ("", 0), NO_COST

    def route_to(self, state: CollectionState) -> None:
        """Go to the index that serves now. The one before follows on, and serves here until the new one is open."""
        self._looked_s = time.monotonic()
        if state.id != self._state.id:
            return
        self.latest = state
        if state.index_id != self.route.state.index_id:
            index = self._rag.indexes.attached_soon(state)
            if index is not None:
                self.route = self._routed(state, index)
        elif state.efforts != self.route.state.efforts:
            self.route = self._routed(state, self.route.index)

    def asked(self, top_k: int, filter: object, *, exact: bool = False, for_answer: bool = False) -> Asked:
        """Check what a search is to ask for; raises InvalidInput and InvalidFilter."""
        check_top_k(top_k, self._rag.settings.max_top_k)
        return Asked(top_k, filter, parse(filter), exact, for_answer)

    def retrieve(self, query: str, asked: Asked, warnings: list[str]) -> Searched:
        """Embed a text and search for it."""
        return self.search(self._embed(query, asked), asked, warnings)

    def _embed(self, query: str, asked: Asked) -> Query:
        """Embed a query, and note what waiting for the model took and what embedding it took."""
        embedder = self._rag.embedder_for(self._state)
        started_s = time.perf_counter()
        try:
            embeddings, queue_s = embedder.embed_timed([query], "query")
        except RagstoneError as error:
            embed_ms = _ms(started_s, time.perf_counter())
            self._tell(self.route, Query(NO_EMBEDDING, {"embed": embed_ms}), asked, outcome=error.code)
            raise
        embedding = prepare_one(embeddings[0], self._state.spec, "query")
        timings_ms = {"queue": _ms(0, queue_s), "embed": _ms(started_s + queue_s, time.perf_counter())}
        tokens = estimate_tokens(query) if self._rag.prices.remote else 0
        return Query(embedding, timings_ms, tokens)

    def search(self, query: Query, asked: Asked, warnings: list[str]) -> Searched:
        """Search, and tell the observers of it; to the query's stages this adds its own."""
        route, started_s = self.current(), time.perf_counter()
        try:
            found = route.searcher.search(query.embedding, asked.top_k, asked.filter, asked.exact)
        except RagstoneError as error:
            self._failed(route, query, asked, started_s, error)
            raise
        self._remind(route)
        return self._searched(route, query, asked, started_s, found, warnings)

    def search_many(self, alike: Sequence["PreparedSearch"], warnings: Sequence[list[str]]) -> list[Searched]:
        """Do several searches at once, which ask alike, as their `kind` says. The observers are told of each.

        What one raises, all raise.
        """
        route, started_s, asked = self.current(), time.perf_counter(), alike[0].asked
        embeddings = np.stack([one.query.embedding for one in alike])
        try:
            found = route.searcher.search_many(embeddings, asked.top_k, asked.filter, asked.exact)
        except RagstoneError as error:
            for one in alike:
                self._failed(route, one.query, one.asked, started_s, error)
            raise
        self._remind(route)
        return [
            self._searched(route, one.query, one.asked, started_s, some, told)
            for one, some, told in zip(alike, found, warnings, strict=True)
        ]

    def planned(self, alike: Sequence["PreparedSearch"]) -> "SearchesPlanned | None":
        """Return the one statement that does such searches, if that is known without asking anybody; else None."""
        route, asked = self.route, alike[0].asked
        if self._is_due() or asked.filter is not None or asked.exact:
            return None
        embeddings = np.stack([one.query.embedding for one in alike])
        planned = route.searcher.planned(embeddings, asked.top_k)
        return None if planned is None else SearchesPlanned(self, route, alike, planned)

    def completed(self, done: "SearchesPlanned", rows: list[tuple[Any, ...]]) -> list[Searched] | None:
        """Return what planned searches found, told to the observers; None where they have to be done otherwise."""
        found = done.route.searcher.found(done.statement, rows, done.alike[0].asked.top_k)
        if found is None:
            return None
        return [
            self._searched(done.route, one.query, one.asked, done.started_s, some, [])
            for one, some in zip(done.alike, found, strict=True)
        ]

    def failed(self, done: "SearchesPlanned", error: RagstoneError) -> None:
        """Tell the observers that planned searches failed."""
        for one in done.alike:
            self._failed(done.route, one.query, one.asked, done.started_s, error)

    def _remind(self, route: Route) -> None:
        if isinstance(route.index.index, PgvectorIndex) and not route.index.index.ready:
            self._rag.keeper.remind(self._state.name, route.index.index)

    def _searched(
        self, route: Route, query: Query, asked: Asked, started_s: float, found: Found, warnings: list[str]
    ) -> Searched:
        query.timings_ms.update(_stages(found, time.perf_counter() - started_s))
        cost = self._cost(found.backend, query)
        retrieval = Retrieval(
            hits=found.hits,
            timings_ms=query.timings_ms,
            backend=found.backend,
            exact=found.exact,
            cost=cost,
            warnings=warnings,
        )
        return Searched(retrieval, self._tell(route, query, asked, found=found, cost=cost))

    def _failed(self, route: Route, query: Query, asked: Asked, started_s: float, error: RagstoneError) -> None:
        query.timings_ms["search"] = _ms(started_s, time.perf_counter())
        self._tell(route, query, asked, outcome=error.code)

    def _cost(self, backend: str, query: Query) -> Cost:
        """What a search costs: the same for every embedding that is given, so that it is not reckoned each time."""
        chunks = self.latest.chunks
        embed_ms = query.timings_ms.get("embed", 0.0)
        if embed_ms or query.tokens:
            return self._rag.prices.of_retrieval(
                backend=backend, chunks=chunks, embed_tokens=query.tokens, embed_s=embed_ms / 1000
            )
        known, cost = self._bare_cost
        if known != (backend, chunks):
            cost = self._rag.prices.of_retrieval(backend=backend, chunks=chunks)
            self._bare_cost = (backend, chunks), cost
        return cost

    def _tell(
        self,
        route: Route,
        query: Query,
        asked: Asked,
        *,
        found: Found | None = None,
        outcome: str = "ok",
        cost: Cost = NO_COST,
    ) -> SearchObserved | None:
        if not self._rag.observers:
            return None
        observed = observed_search(
            route.state,
            query.embedding,
            asked,
            query.timings_ms,
            found=found,
            outcome=outcome,
            cost=cost,
        )
        self._rag.observers.tell(observed)
        return observed

    def _routed(self, state: CollectionState, index: AttachedIndex) -> Route:
        settings = self._rag.settings
        searcher = Searcher(
            self._rag.database, state, index, settings.statement_budget_ms, settings.exact_fallback_chunks
        )
        return Route(state, index, searcher)

    def current(self) -> Route:
        """Return the route, looked up again where that was a second ago."""
        if self._is_due():
            self.route_to(find_collection(self._rag.database, self._state.name))
        return self.route

    def _is_due(self) -> bool:
        return time.monotonic() - self._looked_s >= ROUTE_TTL_S


@dataclass(frozen=True, slots=True)
class PreparedSearch:
    """A search whose input was checked; nobody was asked yet."""

    searches: Searches
    query: Query
    asked: Asked

    @property
    def kind(self) -> Hashable:
        """Equal for searches that can be done at once."""
        filter = self.asked.filter
        # By its jsonpath: Python takes the filters for 1 and for true to be equal.
        return self.searches, self.asked.top_k, None if filter is None else filter.jsonpath(), self.asked.exact


@dataclass(frozen=True, slots=True)
class SearchesPlanned:
    """Searches of one kind that one statement does, for whoever runs it: `Searches.completed` takes its rows."""

    searches: Searches
    route: Route
    alike: Sequence[PreparedSearch]
    statement: PlannedSearches
    started_s: float = field(default_factory=time.perf_counter)


def _stages(found: Found, took_s: float) -> dict[str, float]:
    """What a search took: in an index beside the corpus and then in the corpus, or in the corpus alone."""
    if not found.index_s:
        return {"search": _ms(0, took_s)}
    return {"search": _ms(0, found.index_s), "corpus": _ms(found.index_s, took_s)}


def _ms(started_s: float, ended_s: float) -> float:
    return round((ended_s - started_s) * 1000, 3)
