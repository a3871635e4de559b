"""One corpus in a database of its own, with every backend configured; each test has a collection of its own."""

from collections.abc import Iterator
from contextlib import suppress

import pytest

import retrieval
from backends.errors import NotFound
from ops.moving import dropping, verification
from retrieval import Ragstone
from retrieval import collection as routing
from retrieval.config import Settings
from tests.moving.subject import DIMENSION, Subject, names
from tests.service.serving import database_of_its_own
from tests.stores import Stores

CHUNKS = 300
QUERIES = 20


@pytest.fixture(scope="session")
def settings(stores: Stores) -> Settings:
    """All backends at once, and HNSW on pgvector also for small collections."""
    stores.settings("faiss")
    weaviate = stores.settings("weaviate")
    return stores.settings(
        "pinecone",
        weaviate_url=weaviate.weaviate_url,
        weaviate_grpc_port=weaviate.weaviate_grpc_port,
        index_min_chunks=100,
        ef_search=200,
    )


@pytest.fixture(scope="session")
def url(postgres_url: str) -> Iterator[str]:
    with database_of_its_own(postgres_url, "moving") as url:
        yield url


@pytest.fixture(scope="session")
def rag(url: str, settings: Settings) -> Iterator[Ragstone]:
    with retrieval.open(url, settings=settings) as opened:
        yield opened


@pytest.fixture
def subject(rag: Ragstone, name: str) -> Iterator[Subject]:
    """A collection on pgvector with 300 documents, d0 to d299."""
    made = Subject(rag, rag.create_collection(name, dimension=DIMENSION))
    made.put(names(0, CHUNKS), seed=1)
    yield made
    with suppress(NotFound):  # deleted by the test itself
        rag.delete_collection(name)


@pytest.fixture
def few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is not about recall: a verification that takes less time."""
    monkeypatch.setattr(verification, "QUERIES", QUERIES)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is not about waiting: a change-over is noticed at once, and nobody asks an old index any more."""
    monkeypatch.setattr(routing, "ROUTE_TTL_S", 0.05)
    monkeypatch.setattr(dropping, "longest_query_s", lambda rag: 0.0)
