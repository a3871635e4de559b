"""Bad input: each kind gets a clear problem that names the field, and changes nothing."""

import json
from typing import Any

import httpx
import pytest

from tests.service.conftest import LEAVE
from tests.service.problems import problem

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("top_k", [0, -1, 1_000_000, 10**400, True, "5", 1.5])
@pytest.mark.parametrize("route", ["retrieve", "generate"])
def test_top_k(client: httpx.Client, handbook: str, route: str, top_k: object) -> None:
    """A top_k that cannot be is refused by its name."""
    found = client.post(f"/v1/collections/{handbook}/{route}", json={"query": "leave", "top_k": top_k})
    assert problem(found, 422, "invalid_input")["field"] == "top_k"


@pytest.mark.parametrize(
    ("filter_", "field"),
    [
        ({"year": {"$near": 2020}}, "filter.year.$near"),
        ({"a' OR 1=1 --": 1}, "filter"),
        ({"year": float("1e999")}, "filter.year"),
        ({"year": None}, "filter.year"),
        ({"$or": []}, "filter.$or"),
        ({"a\x00b": 1}, "filter"),
        ({"a": "b\x00"}, "filter.a"),
    ],
)
def test_filters(client: httpx.Client, handbook: str, filter_: dict[str, Any], field: str) -> None:
    """A filter that means nothing is refused with the path to the part that is wrong."""
    text = json.dumps({"query": "leave", "filter": filter_}).replace("Infinity", "1e999")
    found = client.post(f"/v1/collections/{handbook}/retrieve", content=text, headers=JSON)
    assert problem(found, 422, "invalid_filter")["field"] == field


@pytest.mark.parametrize(
    ("document", "field", "code"),
    [
        ({"id": "a", "text": ""}, "documents[1].text", "invalid_document"),
        ({"id": "a", "text": "  \n"}, "documents[1].text", "invalid_document"),
        ({"id": "a", "text": "nul \x00"}, "documents[1].text", "invalid_document"),
        ({"id": "a", "text": 5}, "documents[1].text", "invalid_input"),
        ({"id": "a"}, "documents[1].text", "invalid_input"),
        ({"id": "", "text": "b"}, "documents[1].id", "invalid_document"),
        ({"id": "é" * 600, "text": "b"}, "documents[1].id", "invalid_document"),
        ({"id": "a", "text": "b", "body": "c"}, "documents[1].body", "invalid_input"),
        ({"id": "a", "text": "b", "metadata": []}, "documents[1].metadata", "invalid_input"),
        ({"id": "a", "text": "b", "metadata": {"k": 10**310}}, "documents[1].metadata.k", "invalid_document"),
        ({"id": "a", "text": "b", "metadata": {"k\x00": 1}}, "documents[1].metadata", "invalid_document"),
        ({"id": "leave", "text": "b"}, "documents[1].id", "duplicate_id"),
    ],
)
def test_documents(client: httpx.Client, empty: str, document: dict[str, Any], field: str, code: str) -> None:
    """One bad document refuses its whole batch, and is named by its position."""
    found = client.post(f"/v1/collections/{empty}/documents", json={"documents": [LEAVE, document]})
    assert problem(found, 422, code)["field"] == field
    assert client.get(f"/v1/collections/{empty}").json()["documents"] == 0


@pytest.mark.parametrize(
    ("embedding", "code"),
    [
        ([1.0, 2.0], "invalid_embedding"),
        ([0, 0, 0], "invalid_embedding"),
        ([1, 2, 1e999], "invalid_input"),
        ([1, 2, "3"], "invalid_input"),
        ([1, 2, 10**400], "invalid_input"),
        ([], "invalid_embedding"),
        ([[1, 2, 3]], "invalid_input"),
    ],
)
def test_embeddings(client: httpx.Client, embedding: list[Any], code: str) -> None:
    """A wrong dimension, zeros, infinity and what is no number are refused."""
    client.post("/v1/collections", json={"name": "three", "dimension": 3})
    text = json.dumps({"embedding": embedding}).replace("Infinity", "1e999")
    found = client.post("/v1/collections/three/search", content=text, headers=JSON)
    assert problem(found, 422, code)["field"].startswith("embedding")


@pytest.mark.parametrize("name", ["a/b", "it's", "n" * 10_000, "", "a\x00b", "-a", "ü", 'a"; DROP TABLE x; --'])
def test_names(client: httpx.Client, name: str) -> None:
    """A name that could not stand in a path, or is no name, is refused when it is created."""
    found = client.post("/v1/collections", json={"name": name})
    assert problem(found, 422, "invalid_name")["field"] == "name"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/collections/nowhere", 404, "collection_not_found"),
        ("/v1/collections/it's", 422, "invalid_name"),
        (f"/v1/collections/{'n' * 10_000}", 422, "invalid_name"),
        ("/v1/collections/a%00b", 422, "invalid_name"),
        ("/v1/collections/a%FFb", 422, "invalid_name"),
        ("/v1/collections/", 404, "no_such_route"),
        ("/v1/collections/nowhere/documents/x", 404, "collection_not_found"),
        ("/v1/jobs/nonsense", 404, "job_not_found"),
        ("/v1/jobs/3f2b8c1e-0000-4000-8000-000000000000", 404, "job_not_found"),
        ("/v1/jobs/a%00b", 404, "job_not_found"),
        ("/nowhere", 404, "no_such_route"),
    ],
)
def test_paths(client: httpx.Client, path: str, status: int, code: str) -> None:
    """What is not there, and what cannot be, are problem documents."""
    problem(client.get(path), status, code)


def test_document_path_with_nul(client: httpx.Client, empty: str) -> None:
    """An id that the corpus cannot keep is refused in a path, too."""
    for method in ("GET", "DELETE"):
        problem(client.request(method, f"/v1/collections/{empty}/documents/a%00b"), 422, "invalid_document")


def test_method(client: httpx.Client) -> None:
    """A method that is not served says which are."""
    found = client.patch("/v1/collections")
    assert "POST" in problem(found, 405, "method_not_allowed")["detail"]
    assert "GET" in found.headers["allow"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"query": NaN}',
        b'{"query": "\\ud800"}',
        b'{"query": "\xff"}',
        b'{"query": ' + b"[" * 100_000,
        b'{"top_k": ' + b"1" * 5_000 + b"}",
        b'{"query": "a\x00b"}',
        b"\xef\xbb\xbf{}",
    ],
)
def test_not_json(client: httpx.Client, handbook: str, body: bytes) -> None:
    """What is not JSON, also what only some parsers take for JSON, is a malformed body and no crash."""
    found = client.post(f"/v1/collections/{handbook}/retrieve", content=body, headers=JSON)
    assert problem(found, 400, "malformed_body")["detail"].startswith("body: not valid JSON")


@pytest.mark.parametrize("body", [b"[]", b"5", b"null", b'"text"', b""])
def test_not_an_object(client: httpx.Client, handbook: str, body: bytes) -> None:
    """JSON that is no object, and no body at all, are refused as such."""
    found = client.post(f"/v1/collections/{handbook}/retrieve", content=body, headers=JSON)
    assert problem(found, 422, "invalid_input")["field"] == "body"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "nonsense"])
def test_media_type(client: httpx.Client, handbook: str, content_type: str) -> None:
    """A body of another media type is refused with the one that is needed: a web page cannot post by a form."""
    found = client.post(
        f"/v1/collections/{handbook}/retrieve",
        content=b'{"query": "leave"}',
        headers={"content-type": content_type},
    )
    assert "application/json" in problem(found, 415, "unsupported_media_type")["detail"]


def test_query(client: httpx.Client, handbook: str) -> None:
    """A question without words, or with a NUL character, is refused."""
    for query in (" ", "a\x00b"):
        for route in ("retrieve", "generate"):
            found = client.post(f"/v1/collections/{handbook}/{route}", json={"query": query})
            assert problem(found, 422, "invalid_input")["field"] == "query"


def test_faults_are_short(client: httpx.Client, handbook: str) -> None:
    """A megabyte of nonsense is not sent back in the complaint."""
    found = client.post(f"/v1/collections/{handbook}/retrieve", json={"query": "q", "mode": "m" * 100_000})
    assert len(problem(found, 422, "invalid_input")["detail"]) < 300
