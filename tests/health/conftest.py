"""A small corpus that is made ill on purpose: each test breaks a collection of its own, or the database's settings."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
import pytest

import retrieval
from backends.corpus.collections import CollectionState, find_collection
from backends.corpus.indexes import indexes_of
from backends.errors import NotFound
from ops.health.check import Check, CheckFunction, Subject
from ops.health.fixing import fixes_for, mend
from ops.health.hnsw import index_of
from retrieval import Collection, Ragstone
from retrieval.config import Settings, load
from tests.service.serving import database_of_its_own

DIMENSION = 16
CHUNKS = 1_000
HEALTHY = {"index_min_chunks": 500, "embedding_model": "hashing"}


@dataclass(frozen=True)
class Patient:
    """A corpus, and one of its collections: what checks find, what mends it, and a way round Ragstone to break it."""

    rag: Ragstone
    url: str
    collection: Collection

    @property
    def state(self) -> CollectionState:
        return find_collection(self.rag.database, self.collection.name)

    @property
    def embedding(self) -> str:
        return f"ragstone.embedding_{self.collection.id}"

    @property
    def chunk(self) -> str:
        return f"ragstone.chunk_{self.collection.id}"

    @property
    def hnsw(self) -> str:
        return f"{self.embedding}_hnsw"

    def checks(self, function: CheckFunction) -> dict[str, Check]:
        """What one function finds of this collection, by the name of the check."""
        rows = tuple(indexes_of(self.rag.database, self.collection.id))
        return {check.name: check for check in function(Subject(rag=self.rag, collection=self.state, rows=rows))}

    def check(self, function: CheckFunction) -> Check:
        """The check that is named as its function."""
        return self.checks(function)[function.__name__]

    def corpus_check(self, function: CheckFunction) -> Check:
        """The same of the whole corpus."""
        return next(iter(function(Subject(rag=self.rag))))

    def mend(self, check: Check) -> str:
        """Do what mends a finding, and return what that was."""
        (fix,) = fixes_for(self.rag, [check])
        (done,) = mend([fix], lambda _: None)
        assert done.problem is None
        return done.description

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement as somebody else, in a session that ends with it."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[Any]]:
        """Somebody else's transaction, which is left open while the block runs and rolled back then."""
        with psycopg.connect(self.url) as connection:
            connection.execute("SET application_name = 'forgotten'")
            yield connection
            connection.rollback()

    @contextmanager
    def reopened(self, **settings: object) -> Iterator["Patient"]:
        """The same collection as a process sees it that starts now."""
        with opened(self.url, load(**HEALTHY | settings)) as rag:
            yield Patient(rag, self.url, rag.collection(self.collection.name))

    def build(self) -> None:
        """Build HNSW."""
        assert index_of(self.rag, self.state).build_missing()


@contextmanager
def opened(url: str, settings: Settings) -> Iterator[Ragstone]:
    """Open a corpus whose indexes nobody builds in the background: what a test breaks stays broken."""
    with retrieval.open(url, settings=settings) as rag:
        rag.keeper.close()
        yield rag


@pytest.fixture(scope="session")
def settings() -> Settings:
    """HNSW also on collections that are small."""
    return load(**HEALTHY)


@pytest.fixture(scope="session")
def url(postgres_url: str) -> Iterator[str]:
    with database_of_its_own(postgres_url, "health") as url:
        yield url


@pytest.fixture(scope="session")
def rag(url: str, settings: Settings) -> Iterator[Ragstone]:
    with opened(url, settings) as rag:
        yield rag


@pytest.fixture
def patient(rag: Ragstone, url: str, name: str) -> Iterator[Patient]:
    """A healthy collection: 1,000 chunks d0 to d999, HNSW built, every 25th in the same group."""
    made = Patient(rag, url, rag.create_collection(name, dimension=DIMENSION))
    put(made.collection, range(CHUNKS))
    made.build()
    yield made
    with suppress(NotFound):  # deleted by the test itself
        rag.delete_collection(name)


@pytest.fixture
def small(rag: Ragstone, url: str, name: str) -> Iterator[Patient]:
    """A collection of 50 chunks, which needs no index."""
    collection = rag.create_collection(f"{name}.small", dimension=DIMENSION)
    put(collection, range(50))
    yield Patient(rag, url, collection)
    rag.delete_collection(collection.name)


def put(collection: Collection, numbers: range, seed: int = 0) -> None:
    """Write documents with embeddings that `seed` draws."""
    ids = [f"d{number}" for number in numbers]
    embeddings = np.random.default_rng((seed, numbers.start)).normal(size=(len(ids), DIMENSION))
    metadata = [{"kind": "a", "group": number % 25} for number in numbers]
    collection.upsert_embeddings(ids, embeddings, [f"text of {id_}" for id_ in ids], metadata)


def eventually(found: Callable[[], object]) -> None:
    """Wait until `found()` holds: for what PostgreSQL's other processes do in their own time."""
    from tests.acceptance.command import wait_for

    assert wait_for(found)
