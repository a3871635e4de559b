"""The library opened on the run's PostgreSQL, with the embedder whose answers can be worked out in one's head."""

from collections.abc import Iterator

import pytest

import retrieval
from retrieval import Collection, Ragstone
from retrieval.config import load


@pytest.fixture(scope="session")
def rag(postgres_url: str) -> Iterator[Ragstone]:
    with retrieval.open(postgres_url, settings=load(embedding_model="hashing")) as opened:
        yield opened


@pytest.fixture
def texts(rag: Ragstone, name: str) -> Iterator[Collection]:
    """An empty collection for texts."""
    yield rag.create_collection(name)
    rag.delete_collection(name)


@pytest.fixture
def vectors(rag: Ragstone, name: str) -> Iterator[Collection]:
    """An empty collection for the user's own embeddings, of dimension 3."""
    yield rag.create_collection(f"{name}.own", dimension=3)
    rag.delete_collection(f"{name}.own")
