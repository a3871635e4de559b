"""One collection, as users handle it."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from types import EllipsisType
from typing import TYPE_CHECKING

from backends.corpus.collections import CollectionState, OwnSettings, configure_collection, find_collection
from backends.corpus.reading import StoredDocument, get_document, get_documents
from backends.corpus.writing import WriteTransaction, write
from backends.errors import Conflict, InvalidFilter, InvalidInput
from backends.filters import All, parse
from backends.pgvector import PgvectorIndex
from backends.types import Metric, Precision
from backends.vectors import prepare, prepare_one
from retrieval.asking import Question
from retrieval.bulk import check_bulk, upsert_bulk
from retrieval.checking import (
    check_documents,
    check_id,
    check_list,
    check_max_tokens,
    check_mode,
    check_placement,
    check_query,
)
from retrieval.documents import Answer, Document, Hit, Metadata, Retrieval, UpsertResult
from retrieval.generation.base import Message
from retrieval.generation.driving import AnswerRun, EventStream
from retrieval.generation.templates import PromptTemplate, template_of
from retrieval.searching import PreparedSearch, Query, Searches, SearchesPlanned
from retrieval.upserting import Upsert

if TYPE_CHECKING:
    from retrieval.library import Ragstone

MAX_PAGE = 1_000
ROUTE_TTL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionInfo:
    """How a collection stands. `embedding_model` is None where users bring their own embeddings.

    `placement_threshold` and `recall_target` are None where the service's settings hold, `pinned_backend` is None
    where size decides, `prompt` is None where it is the default.
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
    prompt: PromptTemplate | None


class Collection:
    """Documents of one kind and their embeddings. Get one from Ragstone; safe to use from any thread.

    A collection that is moved to another backend is followed there: hold on to this as long as you like.
    """

    def __init__(self, rag: "Ragstone", state: CollectionState) -> None:
        self._rag = rag
        self._state = state
        self._searches = Searches(rag, state)
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
        self._searches.route_to(state)

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
            prompt=None if state.prompt is None else template_of(state),
        )

    def configure(
        self,
        *,
        placement_threshold: int | EllipsisType | None = ...,
        recall_target: float | EllipsisType | None = ...,
        prompt: PromptTemplate | EllipsisType | None = ...,
    ) -> None:
        """Give the collection a threshold, a recall target or a prompt of its own.

        None goes back to the service's settings, for `prompt` to the default; what is not given stays as it is. Other
        processes follow within a second. Raises InvalidInput, and CollectionNotFound where it was deleted.
        """
        own = OwnSettings()
        if not isinstance(placement_threshold, EllipsisType):
            own["placement_threshold"] = placement_threshold
        if not isinstance(recall_target, EllipsisType):
            own["recall_target"] = recall_target
        if not isinstance(prompt, EllipsisType):
            own["prompt"] = None if prompt is None else prompt.as_dict()
        check_placement(own.get("placement_threshold"), own.get("recall_target"))
        self.route_to(configure_collection(self._rag.database, self.name, own))

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
        result = upsert_bulk(self._rag.database, self._searches.current().state, rows, self._rag.settings.tail_limit)
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
        asked = self._searches.asked(top_k, filter)
        with self._rag.counted("search") as warnings:
            return self._searches.retrieve(query, asked, warnings).retrieval

    def search(self, embedding: object, top_k: int = 10, filter: object = None, exact: bool = False) -> list[Hit]:
        """Return the chunks nearest to an embedding, float32 [d]. `exact` compares it with every one."""
        return self.search_with_timings(embedding, top_k, filter, exact).hits

    def search_with_timings(
        self, embedding: object, top_k: int = 10, filter: object = None, exact: bool = False
    ) -> Retrieval:
        """Search, and say how many milliseconds it took and what answered."""
        search = self.prepare_search(embedding, top_k, filter, exact)
        with self._rag.counted("search") as warnings:
            return self._searches.search(search.query, search.asked, warnings).retrieval

    def prepare_search(
        self, embedding: object, top_k: int = 10, filter: object = None, exact: bool = False
    ) -> PreparedSearch:
        """Check a search, which is then done with others of its kind: `search_prepared`.

        Raises InvalidInput, InvalidFilter and InvalidEmbedding.
        """
        asked = self._searches.asked(top_k, filter, exact=exact)
        return PreparedSearch(self._searches, Query(prepare_one(embedding, self._state.spec, "embedding")), asked)

    def plan_prepared(self, alike: Sequence[PreparedSearch]) -> SearchesPlanned | None:
        """Return the statement that does searches of one kind; None where they are for `search_prepared`.

        For an event loop: nobody is asked, and nothing blocks.
        """
        return self._searches.planned(alike)

    def search_prepared(self, alike: Sequence[PreparedSearch]) -> list[Retrieval]:
        """Do searches of one kind, all in this collection, at once; what one raises, all raise."""
        with ExitStack() as counting:
            warnings = [counting.enter_context(self._rag.counted("search", one.asked.tags)) for one in alike]
            return [one.retrieval for one in self._searches.search_many(alike, warnings)]

    def search_many(
        self, embeddings: object, top_k: int = 10, filter: object = None, exact: bool = False
    ) -> list[list[Hit]]:
        """Return for each of several embeddings, float32 [q, d], what `search` returns for it, in less time.

        The vector index and the corpus are asked for many of them at once.
        """
        asked = self._searches.asked(top_k, filter, exact=exact)
        prepared = prepare(embeddings, self._state.spec)
        alike = [PreparedSearch(self._searches, Query(embedding), asked) for embedding in prepared]
        return [one.hits for one in self.search_prepared(alike)] if alike else []

    def generate(
        self,
        query: str,
        top_k: int = 5,
        filter: object = None,
        max_tokens: int | None = None,
        history: Sequence[Message] = (),
    ) -> Answer:
        """Answer a question from the documents, with citations. `history` is the conversation before it."""
        return self.prepare_answer(query, top_k, filter, max_tokens, history).answer()

    def stream(
        self,
        query: str,
        top_k: int = 5,
        filter: object = None,
        max_tokens: int | None = None,
        history: Sequence[Message] = (),
    ) -> EventStream:
        """Answer as it comes: the hits, pieces of text, then the whole answer. Closing it stops the generator."""
        return self.prepare_answer(query, top_k, filter, max_tokens, history, streamed=True).events()

    def prepare_answer(
        self,
        query: str,
        top_k: int = 5,
        filter: object = None,
        max_tokens: int | None = None,
        history: Sequence[Message] = (),
        *,
        streamed: bool = False,
    ) -> AnswerRun:
        """Check a question; its answer is asked for by whoever runs what this returns.

        Raises InvalidInput and InvalidFilter.
        """
        check_query(query)
        check_max_tokens(max_tokens)
        asked = self._searches.asked(top_k, filter, for_answer=True)
        question = Question(
            self._rag, self._searches, query, asked, max_tokens=max_tokens, history=history, streamed=streamed
        )
        return AnswerRun(question, self._rag.admission)

    def wait_until_indexed(self, timeout_s: float = 600) -> None:
        """Return when the vector index has all that is there now, or none is needed; IndexBehind after `timeout_s`."""
        self.route_to(find_collection(self._rag.database, self.name))  # it may have moved a moment ago
        route = self._searches.route
        if isinstance(route.index.index, PgvectorIndex):
            self._rag.keeper.wait(self.name, route.index.index, timeout_s)
        else:
            self._rag.indexes.wait(route.state, timeout_s)

    def _indexed(self) -> bool:
        index = self._searches.current().index
        return index.index.ready if isinstance(index.index, PgvectorIndex) else index.away is None

    def _write(self, edit: Callable[[WriteTransaction], int]) -> int:
        result = write(self._rag.database, self._state, edit, self._rag.settings.tail_limit)
        self._wrote()
        return result

    def _wrote(self) -> None:
        index = self._searches.route.index.index
        if isinstance(index, PgvectorIndex):
            self._rag.keeper.notice(self.name, index)
        self._rag.indexes.notice(self._state)


def _document(stored: StoredDocument) -> Document:
    return Document(id=stored.id, title=stored.title, text=stored.text, metadata=stored.metadata)
