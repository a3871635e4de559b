"""Retrieve and search over HTTP."""

import uuid

import httpx
import numpy as np
import pytest

import retrieval
from retrieval.service.schemas.search import SearchResult
from tests.service.conftest import LEAVE
from tests.service.problems import problem


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
