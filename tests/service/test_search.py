"""Retrieve and search over HTTP."""

import socket
import time
import uuid
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from fastapi import APIRouter

import retrieval
from retrieval.service import create_app
from retrieval.service.routes.search import search
from retrieval.service.schemas.search import SearchResult
from retrieval.service.wire import StrictRoute
from tests.service.conftest import LEAVE
from tests.service.problems import problem
from tests.service.serving import served

JSON = {"Content-Type": "application/json"}
REFUSED = [
    (b"", JSON),
    (b"", {}),
    (b"null", JSON),
    (b"[1, 2]", JSON),
    (b'"text"', JSON),
    (b"{", JSON),
    (b"\xff", JSON),
    (b"{}", JSON),
    (b"{}", {}),
    (b"{}", {"Content-Type": "text/plain"}),
    (b'{"embedding": [1, NaN]}', JSON),
    (b'{"embedding": [1, 1e999]}', JSON),
    (b'{"embedding": [1, "2", null, true, []], "top_k": "3", "exact": 1, "more": 0}', JSON),
    (b'{"embedding": {"0": 1}, "filter": []}', JSON),
    (b'{"embedding": [1, 0], "top_k": 0}', JSON),
    (b'{"embedding": [1, 0], "filter": {"$no": 1}}', JSON),
]


def test_retrieve(client: httpx.Client, handbook: str) -> None:
    """The passage that shares most words comes first, whole, with its place and what it took."""
    body = {"query": "thirty days of leave", "top_k": 2}
    found = client.post(f"/v1/collections/{handbook}/retrieve", json=body)
    result = SearchResult.model_validate_json(found.content)
    first, second = result.results
    assert (first.id, first.document_id, first.title) == ("leave", "leave", "Leave")
    assert (first.text, first.start, first.end) == (LEAVE["text"], 0, len(LEAVE["text"]))
    assert first.metadata == LEAVE["metadata"]
    assert first.score > second.score
    assert result.timings_ms.keys() >= {"embed", "search"}
    assert (result.index.backend, result.index.exact) == ("pgvector", True)


def test_filter(client: httpx.Client, handbook: str) -> None:
    """Only what matches the filter is returned."""
    body = {"query": "thirty days of leave", "filter": {"year": {"$lt": 2025}}}
    found = client.post(f"/v1/collections/{handbook}/retrieve", json=body).json()
    assert [hit["id"] for hit in found["results"]] == ["travel/by train"]


@pytest.mark.parametrize("mode", ["keyword", "hybrid"])
def test_modes_to_come(client: httpx.Client, handbook: str, mode: str) -> None:
    """A mode that is pinned and not built says so."""
    found = client.post(f"/v1/collections/{handbook}/retrieve", json={"query": "leave", "mode": mode})
    assert mode in problem(found, 501, "not_built_yet")["detail"]


@pytest.mark.parametrize("exact", [True, False])
def test_search(client: httpx.Client, rag: retrieval.Ragstone, exact: bool) -> None:
    """Your own embeddings are found by the nearest, with the same shape of answer."""
    name = f"c{uuid.uuid4().hex}"
    collection = rag.create_collection(name, dimension=2)
    collection.upsert_embeddings(["a", "b"], np.array([[1, 0], [0, 1]], np.float32), ["first", "second"])
    body = {"embedding": [0.1, 2], "top_k": 1, "exact": exact}
    result = SearchResult.model_validate_json(client.post(f"/v1/collections/{name}/search", json=body).content)
    assert [(hit.id, hit.text) for hit in result.results] == [("b", "second")]
    assert result.results[0].score == pytest.approx(2 / np.hypot(0.1, 2), abs=1e-3)


@pytest.fixture(scope="module")
def twice(rag: retrieval.Ragstone) -> Iterator[httpx.Client]:
    """A service that has the same search on FastAPI's own way, too."""
    router = APIRouter(prefix="/usual/{name}", route_class=StrictRoute)
    router.post("/search")(search)
    with served(create_app(rag, routers=[router])) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.mark.parametrize(("body", "headers"), REFUSED)
def test_refused_as_anywhere(twice: httpx.Client, empty: str, body: bytes, headers: dict[str, str]) -> None:
    """What the short way refuses, it refuses word for word as FastAPI's own way does."""
    quick = twice.post(f"/v1/collections/{empty}/search", content=body, headers=headers)
    usual = twice.post(f"/usual/{empty}/search", content=body, headers=headers)
    assert quick.status_code >= 400
    assert (quick.status_code, quick.json()) == (usual.status_code, usual.json())
    assert quick.headers["content-type"] == usual.headers["content-type"]


def test_other_methods(client: httpx.Client, empty: str) -> None:
    """A search is a POST."""
    found = client.get(f"/v1/collections/{empty}/search")
    problem(found, 405, "method_not_allowed")
    assert found.headers["allow"] == "POST"


def test_gone_before_the_body_is_sent(url: str, client: httpx.Client, empty: str) -> None:
    """Who hangs up in the middle of the body is counted as gone: nothing is wrong with the service."""
    counted = 'route="/v1/collections/{name}/search",status="499"'
    with socket.create_connection((httpx.URL(url).host, httpx.URL(url).port or 80)) as connection:
        head = f"POST /v1/collections/{empty}/search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f'{head}Content-Length: 100\r\n\r\n{{"embedding"'.encode())
        time.sleep(0.2)
    deadline_s = time.monotonic() + 10
    while counted not in client.get("/metrics").text:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
