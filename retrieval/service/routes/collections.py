"""Collections: create, list, look at, change, delete."""

from fastapi import APIRouter

from backends.errors import CollectionNotFound
from retrieval.collection import CollectionInfo
from retrieval.library import Ragstone
from retrieval.service.schemas.base import NameInPath
from retrieval.service.schemas.collections import (
    CollectionChanges,
    CollectionList,
    CollectionResult,
    NewCollection,
    collection_json,
)
from retrieval.service.schemas.problems import answers_with
from retrieval.service.service import Here
from retrieval.service.wire import Json, StrictRoute

router = APIRouter(prefix="/v1/collections", tags=["collections"], route_class=StrictRoute)


@router.post(
    "",
    summary="Create a collection",
    status_code=201,
    response_model=CollectionResult,
    responses=answers_with(400, 409, 413, 415, 422, 503),
)
def create(here: Here, body: NewCollection) -> Json:
    """Create an empty collection.

    For texts, which the service embeds, a name is enough. With `dimension` it holds your own embeddings.
    """
    collection = here.rag.create_collection(
        body.name,
        embedding_model=body.embedding_model,
        dimension=body.dimension,
        metric=body.metric,
        precision=body.precision,
        placement_threshold=body.placement_threshold,
        recall_target=body.recall_target,
        prompt=None if body.prompt is None else body.prompt.template(),
    )
    return Json(collection_json(collection.info()), 201, {"Location": f"/v1/collections/{body.name}"})


@router.get("", summary="List the collections", response_model=CollectionList, responses=answers_with(503))
def list_all(here: Here) -> Json:
    """Return every collection and how it stands."""
    return Json({"collections": [collection_json(info) for info in collection_infos(here.rag)]})


@router.get(
    "/{name}", summary="Look at a collection", response_model=CollectionResult, responses=answers_with(404, 422, 503)
)
def show(here: Here, name: NameInPath) -> Json:
    """Return how a collection stands: its size, its model, what serves it."""
    return Json(collection_json(here.rag.collection(name).info()))


@router.patch(
    "/{name}",
    summary="Change a collection",
    response_model=CollectionResult,
    responses=answers_with(400, 404, 413, 415, 422, 503),
)
def change(here: Here, name: NameInPath, body: CollectionChanges) -> Json:
    """Give a collection a prompt, a recall target or a placement threshold of its own, or take it away with null.

    What is left out stays as it is. Answers that begin later than the reply use the new prompt; other servers over
    the same corpus follow within a second.
    """
    collection = here.rag.collection(name)
    collection.configure(**body.given())
    return Json(collection_json(collection.info()))


@router.delete("/{name}", summary="Delete a collection", status_code=204, responses=answers_with(404, 422, 503))
def delete(here: Here, name: NameInPath) -> None:
    """Delete a collection and everything in it. There is no way back."""
    here.rag.delete_collection(name)


def collection_infos(rag: Ragstone) -> list[CollectionInfo]:
    """Return how every collection stands, less those that are deleted meanwhile."""
    infos = []
    for name in rag.collections():
        try:
            infos.append(rag.collection(name).info())
        except CollectionNotFound:
            continue
    return infos
