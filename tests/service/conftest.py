"""One corpus in a real PostgreSQL and one server over it; each test has a collection of its own."""

import uuid
from collections.abc import Iterator

import httpx
import pytest

import retrieval
from retrieval.config import load
from retrieval.service import create_app
from tests.service.serving import database_of_its_own, served

MAX_BODY_BYTES = 1_000_000

LEAVE = {
    "id": "leave",
    "title": "Leave",
    "text": "Everyone has thirty days of leave a year.",
    "metadata": {"year": 2026, "topic": "time"},
}
TRAVEL = {
    "id": "travel/by train",
    "title": "Travel",
    "text": "Trains are booked in second class.",
    "metadata": {"year": 2024, "topic": "travel"},
}


@pytest.fixture(scope="session")
def rag(postgres_url: str) -> Iterator[retrieval.Ragstone]:
    """A corpus of the service's own: its worker takes every job that is in it."""
    settings = load(embedding_model="hashing", max_body_bytes=MAX_BODY_BYTES)
    with database_of_its_own(postgres_url, "service") as url, retrieval.open(url, settings=settings) as rag:
        yield rag


@pytest.fixture(scope="session")
def url(rag: retrieval.Ragstone) -> Iterator[str]:
    with served(create_app(rag)) as url:
        yield url


@pytest.fixture(scope="session")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.fixture
def name(client: httpx.Client) -> str:
    """An empty collection for texts, of this test's own."""
    return _created(client)


@pytest.fixture(scope="session")
def empty(client: httpx.Client) -> str:
    """An empty collection for texts, which stays empty."""
    return _created(client)


@pytest.fixture(scope="session")
def handbook(client: httpx.Client) -> str:
    """A collection with two documents, which stay as they are."""
    name = _created(client)
    client.post(f"/v1/collections/{name}/documents", json={"documents": [LEAVE, TRAVEL]}).raise_for_status()
    return name


def _created(client: httpx.Client) -> str:
    name = f"c{uuid.uuid4().hex}"
    client.post("/v1/collections", json={"name": name}).raise_for_status()
    return name
