"""What the HTTP service says while a vector index is away, and when it is back."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
import pytest

import retrieval
from retrieval import Document, Ragstone
from retrieval.service import create_app
from tests.acceptance.command import wait_for
from tests.outages import PATIENCE_S, STORES, Store, during, impatient, moved, noticed
from tests.service.problems import problem
from tests.service.serving import database_of_its_own, served
from tests.stores import Stores

BACKEND = "weaviate"
FALLBACK_CHUNKS = 10
SIZES = {"large": FALLBACK_CHUNKS + 1, "small": FALLBACK_CHUNKS - 1}
TOPICS = ["leave", "travel", "pay", "tools", "rooms", "keys", "food", "sport", "music", "books", "trains"]
QUERY = f"rules about {TOPICS[0]}"
NEWS = {"id": "news", "title": "", "text": "Nobody works on the first of May."}


@dataclass(frozen=True, slots=True)
class Service:
    """A service with a large and a small collection, both in a store that can be broken."""

    client: httpx.Client
    rag: Ragstone
    store: Store

    @contextmanager
    def away(self) -> Iterator[None]:
        """Stop the store while the block runs, and until that is known."""
        with during(self.store, "stopped"):
            yield
            assert wait_for(lambda: noticed(self.rag), PATIENCE_S)

    def retrieve(self, name: str, query: str = QUERY) -> httpx.Response:
        return self.client.post(f"/v1/collections/{name}/retrieve", json={"query": query, "top_k": 1})

    def best(self, name: str, query: str = QUERY) -> tuple[str, bool]:
        """Return the nearest document's id, and whether it was searched for exactly."""
        found = self.retrieve(name, query).raise_for_status().json()
        assert found["index"]["backend"] == BACKEND
        return found["results"][0]["document_id"], found["index"]["exact"]

    def ready(self) -> dict[str, Any]:
        return dict(self.client.get("/health/ready").raise_for_status().json())

    def recovers(self) -> None:
        """Return when it says that nothing is away; then the index answers again."""
        assert wait_for(lambda: self.ready()["status"] == "ready", PATIENCE_S)
        assert self.ready()["away"] == []
        assert [self.best(name) for name in SIZES] == [("leave", False)] * len(SIZES)


@pytest.fixture(scope="module")
def service(postgres_url: str, stores: Stores) -> Iterator[Service]:
    stores.settings(BACKEND)  # skips where its driver is not installed
    with STORES[BACKEND]() as store, database_of_its_own(postgres_url, "index_away") as url, impatient():
        given = store.settings | {"exact_fallback_chunks": FALLBACK_CHUNKS, "backend_timeout_s": 2.0}
        with retrieval.open(url, settings=stores.settings(BACKEND, **given)) as rag:
            for name, size in SIZES.items():
                collection = rag.create_collection(name)
                collection.upsert([Document(id=topic, text=f"Rules about {topic}.") for topic in TOPICS[:size]])
                moved(rag, collection, BACKEND)
            with served(create_app(rag)) as address, httpx.Client(base_url=address, timeout=PATIENCE_S) as client:
                yield Service(client, rag, store)


def test_readiness_says_what_is_away(service: Service) -> None:
    """It is degraded, not down: which collections, in which backend, since when and why; then ready again."""
    assert service.ready()["status"] == "ready"
    with service.away():
        assert wait_for(lambda: noticed(service.rag), PATIENCE_S)
        ready = service.ready()
        assert ready["status"] == "degraded"
        assert [index["collection"] for index in ready["away"]] == sorted(SIZES)
        for index in ready["away"]:
            assert index["backend"] == BACKEND
            assert datetime.fromisoformat(index["since"]).tzinfo is not None
            assert "127.0.0.1" in index["reason"]
        assert service.client.get("/health/live").status_code == 200
    service.recovers()


def test_a_small_collection_answers_and_a_large_one_says_why_not(service: Service) -> None:
    """A 503 and when to try again, for the large one alone."""
    with service.away():
        found = service.retrieve("large")
        told = problem(found, 503, "index_unavailable")
        assert int(found.headers["retry-after"]) > 0
        assert f"exact_fallback_chunks ({FALLBACK_CHUNKS})" in told["detail"]
        assert service.best("small") == ("leave", True)
    service.recovers()


def test_documents_are_written_and_deleted_meanwhile(service: Service) -> None:
    """What is written while the index is away is found, at once where it is small, by the index when it is back."""
    with service.away():
        for name in SIZES:
            written = service.client.post(f"/v1/collections/{name}/documents", json={"documents": [NEWS]})
            assert written.raise_for_status().json()["upserted"] == 1
        assert service.best("small", NEWS["text"]) == ("news", True)
    service.recovers()
    assert [service.best(name, NEWS["text"]) for name in SIZES] == [("news", False)] * len(SIZES)
    with service.away():
        for name in SIZES:
            service.client.delete(f"/v1/collections/{name}/documents/news").raise_for_status()
        assert service.best("small", NEWS["text"])[0] != "news"
    service.recovers()
    assert "news" not in [service.best(name, NEWS["text"])[0] for name in SIZES]
