"""Collections over HTTP."""

import uuid

import httpx
import pytest

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


PROMPT = {"system": "Be brief.", "user": "{passages}\nAsked: {question}"}


def test_a_prompt_of_its_own(client: httpx.Client) -> None:
    """A collection is created with a prompt, shows it, takes another one, and goes back to the default."""
    name = f"c{uuid.uuid4().hex}"
    created = client.post("/v1/collections", json={"name": name, "prompt": PROMPT})
    assert created.status_code == 201
    assert created.json()["prompt"] == PROMPT
    other = {"system": "", "user": "{question}\n{passages}"}
    changed = client.patch(f"/v1/collections/{name}", json={"prompt": other})
    assert changed.status_code == 200
    assert CollectionResult.model_validate_json(changed.content).prompt is not None
    assert client.get(f"/v1/collections/{name}").json() == changed.json()
    assert changed.json()["prompt"] == other
    assert client.patch(f"/v1/collections/{name}", json={"prompt": None}).json()["prompt"] is None


def test_what_is_not_named_stays(client: httpx.Client, name: str) -> None:
    """A change sets what stands in its body, null included, and nothing else."""
    path = f"/v1/collections/{name}"
    client.patch(path, json={"prompt": PROMPT, "recall_target": 0.9, "placement_threshold": 10**12})
    found = client.patch(path, json={"recall_target": None}).json()
    assert (found["prompt"], found["recall_target"], found["placement_threshold"]) == (PROMPT, None, 10**12)
    assert client.patch(path, json={}).json() == found


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompt": {"system": "Be brief.", "user": "{question}"}}, "prompt.user"),
        ({"prompt": {"system": "{passages}", "user": "{passages}{question}"}}, "prompt.system"),
        ({"prompt": {"system": "Be brief."}}, "prompt.user"),
        ({"prompt": {**PROMPT, "assistant": "x"}}, "prompt.assistant"),
        ({"recall_target": 1.1}, "recall_target"),
        ({"name": "another"}, "name"),
    ],
)
def test_changes_that_are_refused(client: httpx.Client, name: str, body: object, field: str) -> None:
    """Each names its field, and nothing is changed."""
    before = client.get(f"/v1/collections/{name}").json()
    assert problem(client.patch(f"/v1/collections/{name}", json=body), 422, "invalid_input")["field"] == field
    assert client.get(f"/v1/collections/{name}").json() == before


def test_only_what_is_there_can_be_changed(client: httpx.Client) -> None:
    """A collection that nobody created is not found."""
    problem(client.patch("/v1/collections/nowhere", json={"prompt": None}), 404, "collection_not_found")
