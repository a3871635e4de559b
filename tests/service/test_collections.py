"""Collections over HTTP."""

import uuid

import httpx

from retrieval.service.schemas.collections import CollectionList, CollectionResult
from tests.service.problems import problem


def test_create_show_list_delete(client: httpx.Client) -> None:
    """A collection is created with 201 and its place, shown, listed, deleted, and gone."""
    name = f"c{uuid.uuid4().hex}"
    created = client.post("/v1/collections", json={"name": name})
    assert created.status_code == 201
    assert created.headers["location"] == f"/v1/collections/{name}"
    shown = client.get(created.headers["location"])
    assert shown.json() == created.json()
    found = CollectionResult.model_validate_json(shown.content)
    assert (found.name, found.documents, found.embedding_model, found.metric) == (name, 0, "hashing", "cosine")
    listed = CollectionList.model_validate_json(client.get("/v1/collections").content)
    assert found in listed.collections
    assert client.delete(f"/v1/collections/{name}").status_code == 204
    problem(client.get(f"/v1/collections/{name}"), 404, "collection_not_found")
    problem(client.delete(f"/v1/collections/{name}"), 404, "collection_not_found")


def test_own_embeddings(client: httpx.Client) -> None:
    """With a dimension, a collection has no model, and takes no texts."""
    name = f"c{uuid.uuid4().hex}"
    body = {"name": name, "dimension": 3, "metric": "l2", "precision": "single"}
    created = client.post("/v1/collections", json=body)
    assert created.status_code == 201
    assert body.items() <= created.json().items()
    assert created.json()["embedding_model"] is None
    documents = {"documents": [{"id": "a", "text": "text"}]}
    problem(client.post(f"/v1/collections/{name}/documents", json=documents), 409, "conflict")
    upload = client.post(f"/v1/collections/{name}/files", files=[("files", ("a.txt", b"text"))])
    problem(upload, 409, "conflict")


def test_conflicts(client: httpx.Client, name: str) -> None:
    """A name that is taken and a model other than the service's are refused with 409."""
    problem(client.post("/v1/collections", json={"name": name}), 409, "collection_exists")
    other = {"name": "other", "embedding_model": "e5-large"}
    problem(client.post("/v1/collections", json=other), 409, "model_mismatch")
    both = {"name": "other", "embedding_model": "hashing", "dimension": 3}
    assert problem(client.post("/v1/collections", json=both), 422, "invalid_input")["field"] == "dimension"
