"""The library's front door: a corpus, its collections, and the models beside them."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from backends.corpus import collections as corpus_collections
from backends.corpus.collections import CollectionState
from backends.corpus.database import Database
from backends.corpus.jobs import Jobs
from backends.corpus.server import EmbeddedServer, attach
from backends.errors import Conflict, CorpusUnavailable, InvalidInput, ModelMismatch
from backends.types import IndexSpec, Metric, Precision
from retrieval.attribution import Tags, current_tags
from retrieval.budgets import Kind, Purse
from retrieval.checking import check_name, check_placement, shown
from retrieval.chunking import Chunker
from retrieval.collection import Collection
from retrieval.config import Settings, load
from retrieval.costing import Prices
from retrieval.embedding.base import EmbedderStamp
from retrieval.embedding.batching import Batcher
from retrieval.embedding.factory import open_embedder
from retrieval.generation.admission import Admission
from retrieval.generation.base import Generator
from retrieval.generation.factory import open_generator
from retrieval.generation.templates import PromptTemplate
from retrieval.indexes import AwayIndex, OpenIndexes
from retrieval.indexing import IndexKeeper
from retrieval.observing import Observers
from retrieval.placement import DEFAULT_BACKEND

COLLECTION_TTL_S = 1.0
EMBEDDED_ATTEMPTS = 5
EMBEDDED_PAUSE_S = 0.5

log = logging.getLogger(__name__)


def open(data: str | Path | None = None, *, settings: Settings | None = None) -> "Ragstone":
    """Open a corpus: a folder, in which an embedded PostgreSQL is started, or a postgresql:// URL.

    Without `data`, RAGSTONE_DATA or ./ragstone-data. Close it, or use it in a `with`. Raises InvalidSettings,
    CorpusUnavailable, Unsupported.
    """
    settings = settings or load()
    return Ragstone(str(data if data is not None else settings.data), settings)


class Ragstone:
    """A corpus that is open. Safe to use from any thread."""

    def __init__(self, data: str, settings: Settings) -> None:
        self.settings = settings.model_copy(update={"data": data})
        self._opening = threading.RLock()
        self._loading = threading.RLock()
        self._collections: dict[str, tuple[float, Collection]] = {}
        self.prices = Prices.from_settings(settings)
        self._server, self.database = _open_database(data, settings)
        self.keeper = IndexKeeper(self.database, self.settings)
        self.indexes = OpenIndexes(self.database, self.settings)
        self.jobs = Jobs(self.database)
        self.observers = Observers()
        self.admission = Admission(
            running=settings.generations_running,
            waiting=settings.generations_waiting,
            wait_s=settings.generation_wait_s,
        )
        self.purse: Purse | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give everything back, in the reverse order; the last one out stops the embedded server."""
        for name in ("generator", "embedder"):
            if name in self.__dict__:  # made on first use, or never
                self.__dict__.pop(name).close()
        self.keeper.close()
        self.indexes.close()
        self.database.close()
        if self._server is not None:
            self._server.detach()

    async def close_streams(self) -> None:
        """Give back what answers hold on the event loop that is running."""
        if "generator" in self.__dict__:
            await self.generator.aclose()

    @property
    def is_embedded(self) -> bool:
        """Whether PostgreSQL is our own, on this machine."""
        return self._server is not None

    @cached_property
    def embedder(self) -> Batcher:
        """The embedding model, loaded on first use, behind the batcher that every caller shares."""
        with self._loading:
            if "embedder" in self.__dict__:
                made: Batcher = self.__dict__["embedder"]
                return made
            return Batcher(
                open_embedder(self.settings),
                batch_tokens=self.settings.embedding_batch_tokens,
                queue_texts=self.settings.embedding_queue_texts,
                cache_queries=self.settings.embedding_cache_queries,
            )

    @cached_property
    def generator(self) -> Generator:
        """What answers questions: a model server where one is configured, else the extractive one."""
        with self._loading:
            if "generator" in self.__dict__:
                made: Generator = self.__dict__["generator"]
                return made
            return open_generator(self.settings, self.embedder.embed)

    def create_collection(
        self,
        name: str,
        *,
        embedding_model: str | None = None,
        dimension: int | None = None,
        metric: Metric = "cosine",
        precision: Precision = "half",
        placement_threshold: int | None = None,
        recall_target: float | None = None,
        prompt: PromptTemplate | None = None,
    ) -> Collection:
        """Create a collection: for texts (the service's embedding model), or with `dimension` for your embeddings.

        Precision "half" keeps embeddings at 11 significant bits, in half the space: the cosine of two embeddings
        is off by less than 0.001. "single" keeps float32. `placement_threshold` (chunks above which it leaves
        pgvector), `recall_target` (recall@10 of its index) and `prompt` are the service's own unless given. Raises
        InvalidName, InvalidInput, CollectionExists, and ModelMismatch for a model other than the service's.
        """
        check_name(name)
        check_placement(placement_threshold, recall_target)
        if embedding_model is not None and dimension is not None:
            raise InvalidInput(
                "dimension", "found together with embedding_model, which has its own; needed one of them"
            )
        if dimension is None:
            if embedding_model is not None:
                self._check_model(embedding_model)
            stamp = {"embedder": self.embedder.stamp.as_dict(), "chunker": self._new_chunker().stamp}
            dimension = self.embedder.stamp.dimension
        else:
            stamp = None
        spec = IndexSpec(dimension=dimension, metric=metric, precision=precision)
        state = corpus_collections.create_collection(
            self.database,
            name,
            spec,
            stamp,
            DEFAULT_BACKEND,
            own=corpus_collections.OwnSettings(
                placement_threshold=placement_threshold,
                recall_target=recall_target,
                prompt=None if prompt is None else prompt.as_dict(),
            ),
        )
        return self._remember(state)

    def collection(self, name: str) -> Collection:
        """Open a collection; raises CollectionNotFound."""
        if (known := self.known_collection(name)) is not None:
            return known
        check_name(name)
        return self._remember(corpus_collections.find_collection(self.database, name))

    def known_collection(self, name: str) -> Collection | None:
        """Return a collection that was opened within the last second, without asking anybody; else None."""
        opened_s, collection = self._collections.get(name, (float("-inf"), None))
        return collection if time.monotonic() - opened_s < COLLECTION_TTL_S else None

    def collections(self) -> list[str]:
        """Return the names of all collections, in bytewise order."""
        return corpus_collections.list_collections(self.database)

    def delete_collection(self, name: str) -> None:
        """Delete a collection and all that it holds; raises CollectionNotFound."""
        check_name(name)
        self.indexes.remove_all(corpus_collections.find_collection(self.database, name))
        corpus_collections.delete_collection(self.database, name)
        self._collections.pop(name, None)

    def ping(self) -> None:
        """Raise CorpusUnavailable where PostgreSQL does not answer."""
        self.database.ping()

    def away_indexes(self) -> list[AwayIndex]:
        """Return the vector indexes that cannot be used now; raises CorpusUnavailable."""
        self.ping()
        return self.indexes.away()

    def embedder_for(self, state: CollectionState) -> Batcher:
        """Return what embeds a collection's texts; raises ModelMismatch where that is not this service's model."""
        if state.stamp is None:
            raise Conflict(
                f"collection {state.name!r} holds your own embeddings: use upsert_embeddings and search, or create "
                "a collection without dimension for texts"
            )
        found, here = EmbedderStamp(**state.stamp["embedder"]), self.embedder.stamp
        if not found.matches(here):
            there, ours = found.as_dict(), here.as_dict()
            differing = ", ".join(
                f"{key} {there[key]!r} there, {ours[key]!r} here" for key in ours if there[key] != ours[key]
            )
            raise ModelMismatch(
                f"collection {state.name!r} was embedded otherwise ({differing}), and such embeddings cannot be "
                "compared: set embedding_model to the collection's, or make a new collection"
            )
        return self.embedder

    def chunker_for(self, state: CollectionState) -> Chunker:
        """Return what chunks a collection's texts: what it began with, since settings are for new collections."""
        assert state.stamp is not None
        stamp = state.stamp["chunker"]
        chunker = Chunker(self.embedder.token_spans, stamp["max_tokens"], stamp["overlap_tokens"])
        if chunker.stamp != stamp:
            raise ModelMismatch(
                f"collection {state.name!r} was chunked by {stamp['name']!r}, this Ragstone chunks by "
                f"{chunker.stamp['name']!r}: make a new collection"
            )
        return chunker

    @contextmanager
    def counted(self, kind: Kind, tags: Tags | None = None) -> Iterator[list[str]]:
        """Count a request with the budgets, and give their warnings; where the block raises, it is taken back.

        It is counted for `tags`, or for those of this context.

        Raises BudgetExceeded.
        """
        if self.purse is None:
            yield []
            return
        counted = self.purse.before(tags or current_tags(), kind)
        try:
            yield counted.warnings
        except BaseException:
            self.purse.give_back(counted)
            raise

    def _check_model(self, model: str) -> None:
        if model not in (self.settings.embedding_model, self.embedder.stamp.model):
            raise ModelMismatch(
                f"embedding_model: found {shown(model)}; this service embeds with "
                f"{self.embedder.stamp.model!r}: name that one, or start a service with the other"
            )

    def _new_chunker(self) -> Chunker:
        settings = self.settings
        max_tokens = min(settings.chunk_tokens, self.embedder.max_tokens)
        return Chunker(self.embedder.token_spans, max_tokens, settings.chunk_overlap_tokens)

    def _remember(self, state: CollectionState) -> Collection:
        with self._opening:
            kept = self._collections.get(state.name)
            if kept is not None and kept[1].id == state.id:
                collection = kept[1]
                collection.route_to(state)
            else:
                collection = Collection(self, state)
            self._collections[state.name] = time.monotonic(), collection
            return collection


def _open_database(data: str, settings: Settings) -> tuple[EmbeddedServer | None, Database]:
    if "://" in data:
        return None, _connected(data, settings)
    for _ in range(EMBEDDED_ATTEMPTS):
        server = attach(Path(data), log.info)
        try:
            return server, _connected(server.url, settings)
        except CorpusUnavailable as error:  # a server that was killed a moment ago may still have its socket
            server.detach()
            last = error
            time.sleep(EMBEDDED_PAUSE_S)
        except BaseException:
            server.detach()
            raise
    raise last


def _connected(conninfo: str, settings: Settings) -> Database:
    database = Database(conninfo, settings.pool_size)
    try:
        database.open()
    except BaseException:
        database.close()
        raise
    return database
