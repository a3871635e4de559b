"""One collection, as users handle it."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from backends.attached import AttachedIndex
from backends.corpus.collections import CollectionState, configure_collection, find_collection
from backends.corpus.reading import StoredDocument, get_document, get_documents
from backends.corpus.search import FoundChunk
from backends.corpus.writing import WriteTransaction, write
from backends.errors import Conflict, InvalidFilter, InvalidInput, RagstoneError
from backends.filters import All, parse
from backends.pgvector import PgvectorIndex
from backends.searching import Found, Searcher
from backends.types import Embeddings, Metric, Precision
from backends.vectors import prepare_one
from retrieval.bulk import check_bulk, upsert_bulk
from retrieval.checking import (
    check_documents,
    check_id,
    check_list,
    check_mode,
    check_placement,
    check_query,
    check_top_k,
)
from retrieval.documents import Answer, Document, Event, Hit, Metadata, Retrieval, UpsertResult
from retrieval.telling import NO_EMBEDDING, Asked, observed_search, told
from retrieval.upserting import Upsert

if TYPE_CHECKING:
    from retrieval.library import Ragstone

MAX_PAGE = 1_000
ROUTE_TTL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionInfo:
    """How a collection stands. `embedding_model` is None where users bring their own embeddings.

    `placement_threshold` and `recall_target` are None where the service's settings hold, `pinned_backend` is None
    where size decides.
    """

    name: str
    dimension: int
    metric: Metric
    precision: Precision
    embedding_model: str | None
    documents: int
    chunks: int
    sequence: int
    backend: str
    indexed: bool
    created_at: datetime
    placement_threshold: int | None
    recall_target: float | None
    pinned_backend: str | None


@dataclass(frozen=True, slots=True)
class _Route:
    """Where searches go: the collection as it was when asked, the index that served it then, and what searches it."""

    state: CollectionState
    index: AttachedIndex
    searcher: Searcher


class Collection:
    """Documents of one kind and their embeddings. Get one from Ragstone; safe to use from any thread.

    A collection that is moved to another backend is followed there: hold on to this as long as you like.
    """

    def __init__(self, rag: "Ragstone", state: CollectionState) -> None:
        self._rag = rag
        self._state = state
        self._route = self._routed(state, rag.indexes.attach(state))
        self._looked_s = time.monotonic()
        self._wrote()

    @property
    def name(self) -> str:
        return self._state.name

    @property
    def id(self) -> int:
        """The corpus's number for this collection: one made later under the same name has another."""
        return self._state.id

    def route_to(self, state: CollectionState) -> None:
        """Go to the index that serves now. The one before follows on, and serves here until the new one is open."""
        self._looked_s = time.monotonic()
        if state.id != self.id:
            return
        if state.index_id != self._route.state.index_id:
            index = self._rag.indexes.attached_soon(state)
            if index is not None:
                self._route = self._routed(state, index)
        elif state.efforts != self._route.state.efforts:
            self._route = self._routed(state, self._route.index)

    def info(self) -> CollectionInfo:
        """Return how the collection stands now; raises CollectionNotFound where it was deleted."""
        state = find_collection(self._rag.database, self.name)
        stamp = state.stamp
        return CollectionInfo(
            name=state.name,
            dimension=state.spec.dimension,
            metric=state.spec.metric,
            precision=state.spec.precision,
            embedding_model=None if stamp is None else stamp["embedder"]["model"],
            documents=state.documents,
            chunks=state.chunks,
            sequence=state.sequence,
            backend=state.backend,
            indexed=self._indexed(),
            created_at=state.created_at,
            placement_threshold=state.placement_threshold,
            recall_target=state.recall_target,
            pinned_backend=state.pinned_backend,
        )

    def configure(self, *, placement_threshold: int | None = None, recall_target: float | None = None) -> None:
        """Give the collection a threshold and a recall target of its own; None leaves them to the settings."""
        check_placement(placement_threshold, recall_target)
        configure_collection(
            self._rag.database, self.name, placement_threshold=placement_threshold, recall_target=recall_target
        )

    def count(self) -> int:
        """Return how many documents there are."""
        return find_collection(self._rag.database, self.name).documents

    def upsert(self, documents: Iterable[Document], *, progress: Callable[[int], None] | None = None) -> UpsertResult:
        """Write documents, replacing those whose ids are there: all in one transaction, durable on return.

        A document whose title and text are unchanged is not embedded again. `progress` is told how many chunks
        have been embedded so far. Raises InvalidDocument, DuplicateId, ModelMismatch, QueueFull.
        """
        checked = check_documents(documents)
        embed = self._rag.embedder_for(self._state).embed
        upsert = Upsert(
            database=self._rag.database,
            collection=self._state,
            chunker=self._rag.chunker_for(self._state),
            embed=lambda texts: embed(texts, "passage"),
            tail_limit=self._rag.settings.tail_limit,
            progress=progress,
        )
        result = upsert.run(checked)
        self._wrote()
        return result

    def upsert_embeddings(
        self,
        ids: Sequence[str],
        embeddings: object,
        texts: Sequence[str],
        metadata: Sequence[Metadata] | None = None,
    ) -> UpsertResult:
        """Write your own embeddings in bulk: float32 [n, d] (any float array will do), one chunk a document.

        Everything is checked before anything is written; then slices of 20,000 rows commit one by one, and
        repeating the call after a failure is safe. Raises InvalidEmbedding, InvalidDocument, DuplicateId, and
        Conflict where the collection is embedded by a model.
        """
        if self._state.stamp is not None:
            raise Conflict(
                f"collection {self.name!r} is embedded by {self._state.stamp['embedder']['model']!r}, and embeddings "
                "made otherwise cannot be compared with those: upsert the documents, or create a collection with "
                "dimension=... for your own embeddings"
            )
        rows = check_bulk(ids, embeddings, texts, metadata, self._state)
        result = upsert_bulk(self._rag.database, self._current().state, rows, self._rag.settings.tail_limit)
        self._wrote()
        return result

    def get(self, document_id: str) -> Document | None:
        """Return a document as it was given, or None."""
        check_id(document_id, "id")
        stored = get_document(self._rag.database, self._state, document_id)
        return None if stored is None else _document(stored)

    def documents(self, limit: int = 100, after: str | None = None) -> list[Document]:
        """Return up to `limit` documents in bytewise order of their ids, those beyond `after`."""
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidInput("limit", f"found {limit}; needed 1 to {MAX_PAGE}")
        after = check_id(after, "after") if after else ""
        return [_document(stored) for stored in get_documents(self._rag.database, self._state, after, limit)]

    def delete(self, *, ids: Sequence[str] | None = None, filter: object = None) -> int:
        """Delete documents by id or by filter, and return how many there were. An empty filter is refused."""
        if (ids is None) == (filter is None):
            raise InvalidInput("ids", "found both or neither of ids and filter; needed one of the two")
        if ids is not None:
            check_list(ids, "ids")
            checked = sorted({check_id(id_, f"ids[{position}]") for position, id_ in enumerate(ids)})
            return self._write(lambda transaction: transaction.delete_documents(checked))
        parsed = parse(filter)
        if parsed is None:
            raise InvalidFilter("filter", "found an empty one, which matches everything; use delete_all() for that")
        return self._write(lambda transaction: transaction.delete_matching(parsed))

    def delete_all(self) -> int:
        """Delete every document and return how many there were. The collection stays."""
        return self._write(lambda transaction: transaction.delete_matching(All(())))

    def retrieve(self, query: str, top_k: int = 10, filter: object = None, mode: str = "dense") -> list[Hit]:
        """Return the chunks nearest in meaning to a text, best first."""
        return self.retrieve_with_timings(query, top_k, filter, mode).hits

    def retrieve_with_timings(
        self, query: str, top_k: int = 10, filter: object = None, mode: str = "dense"
    ) -> Retrieval:
        """Retrieve, and say how many milliseconds each stage took and what answered."""
        check_query(query)
        check_mode(mode)
        check_top_k(top_k, self._rag.settings.max_top_k)
        asked = Asked(top_k, filter, parse(filter))
        timings_ms: dict[str, float] = {}
        return self._search(self._embed(query, asked, timings_ms), asked, timings_ms)

    def search(self, embedding: object, top_k: int = 10, filter: object = None, exact: bool = False) -> list[Hit]:
        """Return the chunks nearest to an embedding, float32 [d]. `exact` compares it with every one."""
        return self.search_with_timings(embedding, top_k, filter, exact).hits

    def search_with_timings(
        self, embedding: object, top_k: int = 10, filter: object = None, exact: bool = False
    ) -> Retrieval:
        """Search, and say how many milliseconds it took and what answered."""
        check_top_k(top_k, self._rag.settings.max_top_k)
        asked = Asked(top_k, filter, parse(filter), exact)
        return self._search(prepare_one(embedding, self._state.spec, "embedding"), asked, {})

    def generate(self, query: str, top_k: int = 5, filter: object = None, max_tokens: int | None = None) -> Answer:
        """Answer a question from the documents, with citations."""
        answer = None
        for event in self.stream(query, top_k, filter, max_tokens):
            answer = getattr(event, "answer", None)
        assert isinstance(answer, Answer)
        return answer

    def stream(
        self, query: str, top_k: int = 5, filter: object = None, max_tokens: int | None = None
    ) -> Iterator[Event]:
        """Answer as it comes: the hits, pieces of text, then the whole answer with its citations."""
        started_s = time.perf_counter()
        retrieval = self.retrieve_with_timings(query, top_k, filter)
        events = self._rag.answer(query, retrieval, self._state.spec.metric, max_tokens)
        if not self._rag.observers:
            return events
        return told(events, self._rag.observers, self._route.state, retrieval.timings_ms, started_s)

    def wait_until_indexed(self, timeout_s: float = 600) -> None:
        """Return when the vector index has all that is there now, or none is needed; IndexBehind after `timeout_s`."""
        route = self._current()
        if isinstance(route.index.index, PgvectorIndex):
            self._rag.keeper.wait(self.name, route.index.index, timeout_s)
        else:
            self._rag.indexes.wait(route.state, timeout_s)

    def _embed(self, query: str, asked: Asked, timings_ms: dict[str, float]) -> Embeddings:
        """Embed a query; what waiting for the model took and what embedding it took is added to `timings_ms`."""
        embedder = self._rag.embedder_for(self._state)
        started_s = time.perf_counter()
        try:
            embeddings, queue_s = embedder.embed_timed([query], "query")
        except RagstoneError as error:
            timings_ms["embed"] = _ms(started_s, time.perf_counter())
            self._tell(self._route, NO_EMBEDDING, asked, timings_ms, outcome=error.code)
            raise
        embedding = prepare_one(embeddings[0], self._state.spec, "query")
        timings_ms["queue"] = _ms(0, queue_s)
        timings_ms["embed"] = _ms(started_s + queue_s, time.perf_counter())
        return embedding

    def _search(self, embedding: Embeddings, asked: Asked, timings_ms: dict[str, float]) -> Retrieval:
        """Search, and tell the observers of it; `timings_ms` are the stages before, to which this adds its own."""
        route = self._current()
        started = time.perf_counter()
        try:
            found = route.searcher.search(embedding, asked.top_k, asked.filter, asked.exact)
        except RagstoneError as error:
            timings_ms["search"] = _ms(started, time.perf_counter())
            self._tell(route, embedding, asked, timings_ms, outcome=error.code)
            raise
        timings_ms |= _stages(found, time.perf_counter() - started)
        if isinstance(route.index.index, PgvectorIndex) and not route.index.index.ready:
            self._rag.keeper.remind(self.name, route.index.index)
        self._tell(route, embedding, asked, timings_ms, found)
        return _retrieval(found.chunks, timings_ms, found.backend, found.exact)

    def _tell(
        self,
        route: _Route,
        embedding: Embeddings,
        asked: Asked,
        timings_ms: dict[str, float],
        found: Found | None = None,
        outcome: str = "ok",
    ) -> None:
        if self._rag.observers:
            self._rag.observers.tell(observed_search(route.state, embedding, asked, timings_ms, found, outcome))

    def _routed(self, state: CollectionState, index: AttachedIndex) -> _Route:
        settings = self._rag.settings
        searcher = Searcher(
            self._rag.database, state, index, settings.statement_budget_ms, settings.exact_fallback_chunks
        )
        return _Route(state, index, searcher)

    def _current(self) -> _Route:
        if time.monotonic() - self._looked_s >= ROUTE_TTL_S:
            self.route_to(find_collection(self._rag.database, self.name))
        return self._route

    def _indexed(self) -> bool:
        index = self._current().index
        return index.index.ready if isinstance(index.index, PgvectorIndex) else index.away is None

    def _write(self, edit: Callable[[WriteTransaction], int]) -> int:
        result = write(self._rag.database, self._state, edit, self._rag.settings.tail_limit)
        self._wrote()
        return result

    def _wrote(self) -> None:
        index = self._route.index.index
        if isinstance(index, PgvectorIndex):
            self._rag.keeper.notice(self.name, index)
        self._rag.indexes.notice(self._state)


def hit(found: FoundChunk) -> Hit:
    """Return a found chunk as users see it, its span without the white space around the text."""
    lead = len(found.text) - len(found.text.lstrip())
    text = found.text.strip()
    return Hit(
        id=found.id,
        document_id=found.document_id,
        title=found.title,
        score=found.score,
        text=text,
        metadata=found.metadata,
        start=found.start + lead,
        end=found.start + lead + len(text),
    )


def _retrieval(chunks: list[FoundChunk], timings_ms: dict[str, float], backend: str, exact: bool) -> Retrieval:
    return Retrieval(hits=[hit(chunk) for chunk in chunks], timings_ms=timings_ms, backend=backend, exact=exact)


def _stages(found: Found, took_s: float) -> dict[str, float]:
    """What a search took: in an index beside the corpus and then in the corpus, or in the corpus alone."""
    if not found.index_s:
        return {"search": _ms(0, took_s)}
    return {"search": _ms(0, found.index_s), "corpus": _ms(found.index_s, took_s)}


def _document(stored: StoredDocument) -> Document:
    return Document(id=stored.id, title=stored.title, text=stored.text, metadata=stored.metadata)


def _ms(started_s: float, ended_s: float) -> float:
    return round((ended_s - started_s) * 1000, 3)
