"""Documents over HTTP."""

from urllib.parse import quote

import httpx
import pytest

from retrieval.service.schemas.documents import DocumentPage, DocumentResult
from tests.service.conftest import LEAVE, TRAVEL
from tests.service.problems import problem


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_upsert_and_get(client: httpx.Client, name: str, method: str) -> None:
    """What is upserted comes back as it was given; the same again is unchanged; POST and PUT are one."""
    path = f"/v1/collections/{name}/documents"
    first = client.request(method, path, json={"documents": [LEAVE, TRAVEL]})
    assert first.json() == {"upserted": 2, "unchanged": 0, "chunks": 2}
    again = client.request(method, path, json={"documents": [LEAVE, {**TRAVEL, "text": "By train."}]})
    assert again.json() == {"upserted": 1, "unchanged": 1, "chunks": 1}
    found = client.get(f"{path}/leave")
    assert DocumentResult.model_validate_json(found.content).model_dump() == LEAVE
    assert client.get(f"/v1/collections/{name}").json()["documents"] == 2


@pytest.mark.parametrize("id_", ["a/b/c.md", "/rooted", "with space", "über", "100%", "a?b#c", "delete", "a//b"])
def test_ids_of_any_kind(client: httpx.Client, name: str, id_: str) -> None:
    """An id may have slashes, and whatever else a URL can carry percent-encoded."""
    path = f"/v1/collections/{name}/documents"
    client.post(path, json={"documents": [{"id": id_, "text": "some text"}]}).raise_for_status()
    for safe in ("/", ""):
        found = client.get(f"{path}/{quote(id_, safe=safe)}")
        assert found.status_code == 200, found.text
        assert found.json()["id"] == id_
    assert client.delete(f"{path}/{quote(id_)}").status_code == 204
    problem(client.get(f"{path}/{quote(id_)}"), 404, "document_not_found")
    problem(client.delete(f"{path}/{quote(id_)}"), 404, "document_not_found")


def test_pages(client: httpx.Client, name: str) -> None:
    """Pages follow each other without gap or repetition, in bytewise order, and end."""
    ids = sorted(f"{letter}/{number}" for letter in "aBü" for number in range(3))
    documents = [{"id": id_, "text": f"text {id_}"} for id_ in ids]
    client.post(f"/v1/collections/{name}/documents", json={"documents": documents}).raise_for_status()
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(5):
        query = {"limit": 4} if cursor is None else {"limit": 4, "cursor": cursor}
        found = client.get(f"/v1/collections/{name}/documents", params=query)
        page = DocumentPage.model_validate_json(found.content)
        seen += [document.id for document in page.documents]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == ids


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 1_001}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"cursor": "!!"}, "cursor"),
        ({"cursor": "_w"}, "cursor"),  # bytes that are not UTF-8
        ({"offset": 3}, "offset"),
    ],
)
def test_pages_refuse(client: httpx.Client, handbook: str, query: dict[str, str], field: str) -> None:
    """A page that cannot be is refused, and so is a parameter that there is not."""
    found = client.get(f"/v1/collections/{handbook}/documents", params=query)
    assert problem(found, 422, "invalid_input")["field"] == field


def test_delete_many(client: httpx.Client, name: str) -> None:
    """Documents are deleted by id, those that are missing passed over, and by filter."""
    client.post(f"/v1/collections/{name}/documents", json={"documents": [LEAVE, TRAVEL]}).raise_for_status()
    path = f"/v1/collections/{name}/documents/delete"
    assert client.post(path, json={"ids": ["leave", "nowhere"]}).json() == {"deleted": 1}
    assert client.post(path, json={"filter": {"year": {"$lt": 2025}}}).json() == {"deleted": 1}
    assert client.get(f"/v1/collections/{name}").json()["documents"] == 0


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({}, "invalid_input", "ids"),
        ({"ids": ["a"], "filter": {"a": 1}}, "invalid_input", "ids"),
        ({"filter": {}}, "invalid_filter", "filter"),
        ({"ids": ["a\x00"]}, "invalid_document", "ids[0]"),
    ],
)
def test_delete_refuses(client: httpx.Client, handbook: str, body: object, code: str, field: str) -> None:
    """What would delete nothing in particular, or everything, is refused, and deletes nothing."""
    found = client.post(f"/v1/collections/{handbook}/documents/delete", json=body)
    assert problem(found, 422, code)["field"] == field
    assert client.get(f"/v1/collections/{handbook}").json()["documents"] == 2
