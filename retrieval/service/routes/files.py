"""Uploads, and the jobs that ingest them."""

from collections.abc import Iterator, Sequence
from typing import Annotated

from fastapi import APIRouter, File, UploadFile

from backends.errors import Conflict, DuplicateId, InvalidInput
from backends.filters import check_text
from retrieval.checking import MAX_ID_BYTES, shown
from retrieval.service.schemas.base import JobIdInPath, NameInPath
from retrieval.service.schemas.jobs import JobResult, UploadResult, job_json
from retrieval.service.schemas.problems import answers_with
from retrieval.service.service import Here
from retrieval.service.wire import Json, StrictRoute

router = APIRouter(prefix="/v1", tags=["files"], route_class=StrictRoute)

Uploads = Annotated[
    list[UploadFile], File(description="Files of the kinds .txt, .md, .html, .htm and .jsonl, in UTF-8.")
]


@router.post(
    "/collections/{name}/files",
    summary="Upload files to be ingested",
    status_code=202,
    response_model=UploadResult,
    responses=answers_with(400, 404, 409, 413, 415, 422, 503),
)
def upload(here: Here, name: NameInPath, files: Uploads) -> Json:
    """Take files in, and answer before they are ingested; `GET /v1/jobs/{job_id}` says how far that has come.

    Once answered, the files are ingested whatever happens to the service, and then deleted. A file makes one
    document, whose id is the file's name; a .jsonl file makes one of each line:
    `{"_id": "leave", "title": "Leave", "text": "...", "metadata": {"year": 2026}}`.
    """
    if here.rag.collection(name).info().embedding_model is None:
        raise Conflict(
            f"collection {name!r} holds your own embeddings, and files would need a model: create one for texts"
        )
    _check_names([file.filename or "" for file in files])
    job_id = here.rag.jobs.create(name, _contents(files))
    here.worker.wake()
    return Json({"job_id": job_id}, 202, {"Location": f"/v1/jobs/{job_id}"})


@router.get("/jobs/{job_id}", summary="Look at a job", response_model=JobResult, responses=answers_with(404, 422, 503))
def job(here: Here, job_id: JobIdInPath) -> Json:
    """Return how far the ingest of an upload has come, file by file. It can be asked for a week."""
    return Json(job_json(here.rag.jobs.get(job_id)))


def _contents(files: Sequence[UploadFile]) -> Iterator[tuple[str, bytes]]:
    for file in files:
        yield file.filename or "", file.file.read()


def _check_names(names: Sequence[str]) -> None:
    for position, name in enumerate(names):
        field = f"files[{position}]"
        check_text(name, field, InvalidInput)
        if not 1 <= len(name.encode()) <= MAX_ID_BYTES:
            raise InvalidInput(field, f"found the file name {shown(name)}; needed 1 to {MAX_ID_BYTES} bytes")
        if name in names[:position]:
            raise DuplicateId(field, f"found the file name {shown(name)} twice; needed it once, since it is an id")
