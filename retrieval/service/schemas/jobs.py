"""Uploads and their jobs."""

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from backends.corpus.jobs import Job, JobFile
from retrieval.service.schemas.base import JOB_ID_EXAMPLE, CollectionName, Result

_EXAMPLE: JsonDict = {
    "id": JOB_ID_EXAMPLE,
    "collection": "handbook",
    "state": "done",
    "files_done": 2,
    "files": [
        {
            "name": "leave.md",
            "size_bytes": 5210,
            "documents": 1,
            "done": True,
            "problem": None,
            "skipped": 0,
            "skipped_examples": [],
        },
        {
            "name": "old.txt",
            "size_bytes": 812,
            "documents": 0,
            "done": True,
            "problem": "old.txt: found byte 0xE9 at byte offset 17, which is not UTF-8; needed UTF-8",
            "skipped": 0,
            "skipped_examples": [],
        },
    ],
    "documents": 1,
    "upserted": 1,
    "unchanged": 0,
    "skipped": 0,
    "chunks": 6,
    "problem": None,
    "created_at": "2026-11-23T09:30:00.000000+00:00",
    "started_at": "2026-11-23T09:30:00.020000+00:00",
    "finished_at": "2026-11-23T09:30:01.140000+00:00",
}


class UploadResult(Result):
    """The files are kept and will be ingested, whatever happens to the service."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"job_id": JOB_ID_EXAMPLE}]})

    job_id: str = Field(description="Ask `GET /v1/jobs/{job_id}` how it stands.")


class SkippedResult(Result):
    """A document that could not be kept."""

    document_id: str = Field(description="Its id.")
    problem: str = Field(description="What was found, and what is needed.")


class JobFileResult(Result):
    """How one of the files stands."""

    name: str = Field(description="As it was uploaded.")
    size_bytes: int = Field(description="Its size.")
    documents: int = Field(description="Documents read from it and settled.")
    done: bool = Field(description="Whether it is finished, well or not.")
    problem: str | None = Field(description="Why the rest of it could not be read.")
    skipped: int = Field(description="Documents of it that could not be kept, empty ones for example.")
    skipped_examples: list[SkippedResult] = Field(description="The first of these, with the reasons.")


class JobResult(Result):
    """How a job stands."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str = Field(description="The job's id.")
    collection: CollectionName
    state: Literal["queued", "running", "done", "failed"] = Field(
        description="`done`: every file was worked through, though single files may have a `problem`. `failed`: it was "
        "given up, or no file could be read."
    )
    files_done: int = Field(description="Files that are finished.")
    files: list[JobFileResult] = Field(description="In the order of the upload.")
    documents: int = Field(description="Documents settled so far.")
    upserted: int = Field(description="Documents written.")
    unchanged: int = Field(description="Documents that were there already as they are.")
    skipped: int = Field(description="Documents that could not be kept.")
    chunks: int = Field(description="Passages written.")
    problem: str | None = Field(description="Why it failed, or what it waits for.")
    created_at: datetime = Field(description="When the files were acknowledged.")
    started_at: datetime | None = Field(description="When work began.")
    finished_at: datetime | None = Field(description="When it was done or failed.")


def job_json(job: Job) -> dict[str, Any]:
    """Return a JobResult as a dict."""
    return {
        "id": job.id,
        "collection": job.collection,
        "state": job.state,
        "files_done": sum(file.done for file in job.files),
        "files": [_file_json(file) for file in job.files],
        "documents": job.documents,
        "upserted": job.upserted,
        "unchanged": max(0, job.documents - job.upserted - job.skipped),
        "skipped": job.skipped,
        "chunks": job.chunks,
        "problem": job.problem,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
    }


def _file_json(file: JobFile) -> dict[str, Any]:
    return {
        "name": file.name,
        "size_bytes": file.size_bytes,
        "documents": file.documents,
        "done": file.done,
        "problem": file.problem,
        "skipped": file.skipped,
        "skipped_examples": file.skipped_examples,
    }
