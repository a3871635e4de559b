"""Retrieve passages by text, search by embedding."""

from fastapi import APIRouter

from retrieval.documents import Retrieval
from retrieval.service.schemas.base import NameInPath
from retrieval.service.schemas.problems import answers_with
from retrieval.service.schemas.search import RetrieveBody, SearchBody, SearchResult, retrieval_json
from retrieval.service.service import Here
from retrieval.service.wire import Json, QuickRoute

router = APIRouter(prefix="/v1/collections/{name}", tags=["retrieve"], route_class=QuickRoute)


@router.post(
    "/retrieve",
    summary="Retrieve passages for a question",
    response_model=SearchResult,
    responses=answers_with(400, 404, 409, 413, 415, 422, 429, 501, 503),
)
async def retrieve(here: Here, name: NameInPath, body: RetrieveBody) -> Json:
    """Return the passages nearest in meaning to a text, best first, with scores, metadata and their places."""

    def retrieved() -> Json:
        found = here.rag.collection(name).retrieve_with_timings(body.query, body.top_k, body.filter, body.mode)
        return rendered(found)

    return await here.in_thread(retrieved)


@router.post(
    "/search",
    summary="Search with your own embedding",
    response_model=SearchResult,
    responses=answers_with(400, 404, 413, 415, 422, 429, 503),
)
async def search(here: Here, name: NameInPath, body: SearchBody) -> Json:
    """Return the passages whose embeddings are nearest to this one, best first."""
    collection = here.rag.known_collection(name)
    if collection is not None and here.rag.purse is None and not body.exact:
        return await here.together.search(
            collection, collection.prepare_search(body.embedding, body.top_k, body.filter)
        )

    def searched() -> Json:
        found = here.rag.collection(name).search_with_timings(body.embedding, body.top_k, body.filter, body.exact)
        return rendered(found)

    return await here.in_thread(searched)


def rendered(found: Retrieval) -> Json:
    """Return what was found as an answer."""
    return Json(retrieval_json(found))
