"""Documents: upsert, page through, get, delete."""

import base64
import binascii
from typing import Annotated

from fastapi import APIRouter, Query

from backends.errors import DocumentNotFound, InvalidFilter, InvalidInput
from retrieval.checking import shown
from retrieval.documents import Document
from retrieval.service.schemas.base import DocumentIdInPath, NameInPath
from retrieval.service.schemas.documents import (
    DeleteBody,
    DeleteResult,
    DocumentPage,
    DocumentResult,
    PageQuery,
    UpsertBody,
    UpsertResult,
    document_json,
)
from retrieval.service.schemas.problems import answers_with
from retrieval.service.service import Here
from retrieval.service.wire import Json, StrictRoute

router = APIRouter(prefix="/v1/collections/{name}/documents", tags=["documents"], route_class=StrictRoute)


@router.put(
    "",
    summary="Upsert documents, the same as with POST",
    response_model=UpsertResult,
    responses=answers_with(400, 404, 409, 413, 415, 422, 429, 503),
)
@router.post(
    "",
    summary="Upsert documents",
    response_model=UpsertResult,
    responses=answers_with(400, 404, 409, 413, 415, 422, 429, 503),
)
def upsert(here: Here, name: NameInPath, body: UpsertBody) -> Json:
    """Write documents, replacing those of the same ids: all of them or none.

    They are found by the next search. What is unchanged is not embedded again, so that repeating a request is safe
    and cheap.
    """
    documents = [
        Document(id=given.id, title=given.title, text=given.text, metadata=given.metadata) for given in body.documents
    ]
    result = here.rag.collection(name).upsert(documents)
    return Json({"upserted": result.upserted, "unchanged": result.unchanged, "chunks": result.chunks})


@router.get(
    "", summary="Page through the documents", response_model=DocumentPage, responses=answers_with(404, 422, 503)
)
def page(here: Here, name: NameInPath, query: Annotated[PageQuery, Query()]) -> Json:
    """Return documents in bytewise order of their ids, a page at a time."""
    after = None if query.cursor is None else _decoded(query.cursor)
    documents = here.rag.collection(name).documents(query.limit, after)
    more = len(documents) == query.limit
    return Json(
        {
            "documents": [document_json(document) for document in documents],
            "next_cursor": _encoded(documents[-1].id) if more else None,
        }
    )


@router.post(
    "/delete",
    summary="Delete documents by id or by filter",
    response_model=DeleteResult,
    responses=answers_with(400, 404, 413, 415, 422, 429, 503),
)
def delete_many(here: Here, name: NameInPath, body: DeleteBody) -> Json:
    """Delete the documents of these `ids`, or all that match `filter`. An empty filter is refused."""
    if body.filter == {}:
        raise InvalidFilter("filter", "found an empty one, which matches everything; delete the collection for that")
    return Json({"deleted": here.rag.collection(name).delete(ids=body.ids, filter=body.filter)})


@router.get(
    "/{document_id:path}",
    summary="Get a document",
    response_model=DocumentResult,
    responses=answers_with(404, 422, 503),
)
def get(here: Here, name: NameInPath, document_id: DocumentIdInPath) -> Json:
    """Return a document as it was given. Its id may have slashes."""
    document = here.rag.collection(name).get(document_id)
    if document is None:
        raise _unknown(name, document_id)
    return Json(document_json(document))


@router.delete(
    "/{document_id:path}", summary="Delete a document", status_code=204, responses=answers_with(404, 422, 429, 503)
)
def delete(here: Here, name: NameInPath, document_id: DocumentIdInPath) -> None:
    """Delete a document. No search that begins after the answer finds it."""
    if not here.rag.collection(name).delete(ids=[document_id]):
        raise _unknown(name, document_id)


def _unknown(name: str, document_id: str) -> DocumentNotFound:
    return DocumentNotFound(f"there is no document {shown(document_id)} in the collection {name!r}")


def _encoded(document_id: str) -> str:
    return base64.urlsafe_b64encode(document_id.encode()).decode().rstrip("=")


def _decoded(cursor: str) -> str:
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("cursor", f"found {shown(cursor)}; needed the next_cursor of the page before") from error
