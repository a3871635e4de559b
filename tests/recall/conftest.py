"""A corpus in a database of its own, and collections in it whose index misses some of what it should find."""

from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest

import retrieval
from backends.corpus.database import Database
from backends.errors import NotFound
from ops.moving.gentle import gentle_database
from retrieval import Ragstone
from retrieval.config import Settings
from tests.recall.asking import CHUNKS, DIMENSION, Asked, embeddings
from tests.service.serving import database_of_its_own
from tests.stores import Stores


@pytest.fixture(scope="session")
def settings(stores: Stores) -> Settings:
    """HNSW also on small collections, in FAISS too."""
    return stores.settings("faiss", index_min_chunks=100, faiss_kind="hnsw", recall_sample=1.0)


@pytest.fixture(scope="session")
def url(postgres_url: str) -> Iterator[str]:
    with database_of_its_own(postgres_url, "recall") as url:
        yield url


@pytest.fixture(scope="session")
def rag(url: str, settings: Settings) -> Iterator[Ragstone]:
    with retrieval.open(url, settings=settings) as opened:
        yield opened


@pytest.fixture(scope="session")
def gentle(rag: Ragstone) -> Iterator[Database]:
    """Where exact answers are looked for."""
    with gentle_database(rag) as opened:
        yield opened


@pytest.fixture
def asked(rag: Ragstone, name: str) -> Iterator[Asked]:
    """A collection of 4 documents, too small for an index: what is asked of it is up to the test."""
    yield Asked(rag, rag.create_collection(name, dimension=2, metric="l2"))
    with suppress(NotFound):
        rag.delete_collection(name)


@pytest.fixture(scope="session")
def indexed(rag: Ragstone) -> Iterator[Asked]:
    """A collection of random embeddings, on which HNSW's recall grows with its effort: 0.75 at 10, 0.98 at 40."""
    made = Asked(rag, rag.create_collection("indexed", dimension=DIMENSION))
    metadata = [{"n": number} for number in range(CHUNKS)]
    stored = embeddings(CHUNKS, seed=0)
    made.collection.upsert_embeddings([f"d{n}" for n in range(CHUNKS)], stored, ["text"] * CHUNKS, metadata)
    made.collection.wait_until_indexed(60)
    yield made
    rag.delete_collection("indexed")


@pytest.fixture
def queries() -> np.ndarray:
    """Queries that no test tunes on."""
    return embeddings(200, seed=99)
