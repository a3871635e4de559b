"""A small collection whose health is looked at, and ways to break what it is in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast
from uuid import UUID

import numpy as np
import pytest

import retrieval
from backends.base import VectorIndex
from backends.corpus.collections import CollectionState, find_collection, identity
from backends.corpus.indexes import chunk_ids, indexes_of
from backends.faiss import FaissIndex
from backends.types import Ids
from ops import moving
from ops.health import outside
from ops.health.check import Check, CheckFunction, Subject
from ops.moving import verification
from retrieval import Collection, Ragstone
from retrieval.config import Settings
from tests.fakes.pinecone_server import API_KEY, FakePinecone, pinecone_server
from tests.fakes.weaviate.store import Stored
from tests.fakes.weaviate_server import FakeWeaviate, weaviate_server
from tests.outages import impatient
from tests.service.serving import database_of_its_own

COUNT, DIMENSION = 150, 16
STRAY = 1 << 40
"""An id of a transaction that has not begun yet."""


@dataclass
class Watched:
    """A collection as one process has it."""

    rag: Ragstone
    name: str = "handbook"

    @property
    def collection(self) -> Collection:
        return self.rag.collection(self.name)

    @property
    def state(self) -> CollectionState:
        return find_collection(self.rag.database, self.name)

    @property
    def subject(self) -> Subject:
        """What a check is given, as the corpus has it now."""
        state = self.state
        return Subject(rag=self.rag, collection=state, rows=tuple(indexes_of(self.rag.database, state.id)))

    def look(self, function: CheckFunction, budget_s: float = 10.0) -> dict[str, Check]:
        """Return what a check says, by name."""
        return {check.name: check for check in function(replace(self.subject, budget_s=budget_s))}

    def level(self, function: CheckFunction, name: str | None = None) -> str:
        """Return the level of one of the checks that a function gives: its own, unless named."""
        return self.look(function)[name or function.__name__].level

    def mend(self, function: CheckFunction, name: str | None = None) -> None:
        """Do what mends a finding."""
        check = self.look(function)[name or function.__name__]
        assert check.level != "ok"
        assert check.hint
        fix = outside.FIXES[check.name](self.rag, check)
        assert fix is not None
        fix.run()

    def put(self, count: int = COUNT, first: int = 0, seed: int = 1, embeddings: np.ndarray | None = None) -> None:
        """Write documents d0, d1, ..."""
        ids = [f"d{number}" for number in range(first, first + count)]
        self.collection.upsert_embeddings(ids, drawn(count, seed) if embeddings is None else embeddings, ids)

    def move(self, backend: str) -> None:
        """Move it, follow it there in this process, and let the index before go."""
        ended = moving.work_on(self.rag, moving.start(self.rag, self.name, backend))
        assert ended.phase == "done", ended.problem
        self.index()
        for _ in ("nobody is sent there", "it goes"):
            left = moving.drop_old(self.rag, 0.0)
        assert not left

    def index(self) -> VectorIndex:
        """The index that serves, open and followed here."""
        return self.rag.indexes.attach(self.state).index

    def execute(self, statement: str, *values: object) -> None:
        """Break the corpus itself."""
        with self.rag.database.connection() as connection:
            connection.execute(cast(Any, statement), values)

    def ids(self) -> Ids:
        """What the corpus has."""
        with self.rag.database.dedicated() as connection:
            return chunk_ids(connection, self.state)


def drawn(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)


@contextmanager
def corpus_of_its_own(postgres_url: str, database: str) -> Iterator[str]:
    """Make an empty database, and be quick about all that waits."""
    with pytest.MonkeyPatch.context() as patch, impatient(), database_of_its_own(postgres_url, database) as url:
        patch.setattr(verification, "QUERIES", 20)
        patch.setattr("ops.moving.dropping.longest_query_s", lambda rag: 0.0)
        yield url


def made_in(rag: Ragstone, name: str = "handbook", count: int = COUNT) -> Watched:
    """Make a collection on pgvector."""
    rag.create_collection(name, dimension=DIMENSION)
    made = Watched(rag, name)
    made.put(count)
    return made


@contextmanager
def watched(postgres_url: str, database: str, settings: Settings, count: int = COUNT) -> Iterator[Watched]:
    """Open a corpus of its own with one collection on pgvector."""
    with corpus_of_its_own(postgres_url, database) as url, retrieval.open(url, settings=settings) as rag:
        yield made_in(rag, count=count)


class Vault(Protocol):
    """Where an index keeps its data, for what no adapter does to it."""

    backend: str
    settings: dict[str, object]

    def insert(self, subject: Watched, chunk_id: int) -> None: ...

    def lose(self, subject: Watched, ids: Ids) -> None: ...

    def shuffle(self, subject: Watched) -> None:
        """Let every id stand for another's embedding."""


class FaissVault:
    backend = "faiss"

    def __init__(self, folder: object) -> None:
        self.settings: dict[str, object] = {"index_folder": str(folder)}

    def insert(self, subject: Watched, chunk_id: int) -> None:
        index, state = self._of(subject)
        ids = np.array([chunk_id], np.int64)
        index._state = replace(state, delta=state.delta.changed(ids[:0], ids, drawn(1, 5)))

    def lose(self, subject: Watched, ids: Ids) -> None:
        index, state = self._of(subject)
        segments = tuple(segment.without(ids) for segment in state.segments)
        index._state = replace(state, segments=segments, delta=state.delta.changed(ids, ids[:0], drawn(0, 5)))

    def shuffle(self, subject: Watched) -> None:
        index, state = self._of(subject)
        shuffled = [replace(segment, ids=np.roll(segment.ids, 7)) for segment in state.segments]
        index._state = replace(state, segments=tuple(shuffled))

    def _of(self, subject: Watched) -> tuple[FaissIndex, Any]:
        index = subject.index()
        assert isinstance(index, FaissIndex)
        return index, index._current()


class WeaviateVault:
    backend = "weaviate"

    def __init__(self, server: FakeWeaviate) -> None:
        self.server = server
        self.settings: dict[str, object] = {"weaviate_url": server.url, "weaviate_grpc_port": server.grpc_port}

    def insert(self, subject: Watched, chunk_id: int) -> None:
        objects = self.objects(subject)
        uuid = UUID(int=chunk_id)
        objects[uuid] = Stored(uuid, {}, drawn(1, 5)[0], 0.0)

    def lose(self, subject: Watched, ids: Ids) -> None:
        for id_ in ids.tolist():
            del self.objects(subject)[UUID(int=id_)]

    def shuffle(self, subject: Watched) -> None:
        objects = self.objects(subject)
        chunks = [uuid for uuid, one in objects.items() if one.vector is not None]
        vectors = [objects[uuid].vector for uuid in chunks]
        for uuid, vector in zip(chunks, vectors[7:] + vectors[:7], strict=True):
            objects[uuid] = replace(objects[uuid], vector=vector)

    def objects(self, subject: Watched) -> dict[UUID, Stored]:
        """Return what is stored of the serving index."""
        name = identity(subject.rag.database, subject.state).name.replace("-", "_").capitalize()
        return self.server.store.get(name).objects


class PineconeVault:
    backend = "pinecone"

    def __init__(self, server: FakePinecone) -> None:
        self.server = server
        self.settings: dict[str, object] = {"pinecone_host": server.url, "pinecone_api_key": API_KEY}

    def insert(self, subject: Watched, chunk_id: int) -> None:
        self.space(subject).records[str(chunk_id)] = drawn(1, 5)[0], {}

    def lose(self, subject: Watched, ids: Ids) -> None:
        for id_ in ids.tolist():
            del self.space(subject).records[str(id_)]

    def shuffle(self, subject: Watched) -> None:
        space = self.space(subject)
        chunks = [name for name in space.records if name.isdigit()]
        values = [space.records[name][0] for name in chunks]
        for name, value in zip(chunks, values[7:] + values[:7], strict=True):
            space.records[name] = value, space.records[name][1]

    def space(self, subject: Watched) -> Any:
        """Return the namespace of the serving index."""
        name = identity(subject.rag.database, subject.state).name
        space = next(index.namespaces[name] for index in self.server.data.indexes.values() if name in index.namespaces)
        space._matrix = None
        return space


@contextmanager
def faiss_vault(folder: object) -> Iterator[FaissVault]:
    yield FaissVault(folder)


@contextmanager
def weaviate_vault(folder: object) -> Iterator[WeaviateVault]:
    with weaviate_server() as server:
        yield WeaviateVault(server)


@contextmanager
def pinecone_vault(folder: object) -> Iterator[PineconeVault]:
    with pinecone_server() as server:
        yield PineconeVault(server)


VAULTS: dict[str, Callable[[object], Any]] = {
    "faiss": faiss_vault,
    "weaviate": weaviate_vault,
    "pinecone": pinecone_vault,
}
