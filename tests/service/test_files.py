"""Uploads, and the jobs that ingest them."""

import time
from typing import Any

import httpx
import pytest

import retrieval
from retrieval.service.schemas.jobs import JobResult, UploadResult
from tests.service.problems import problem

Files = list[tuple[str, tuple[str, bytes]]]


def _files(**contents: bytes) -> Files:
    return [("files", (name.replace("_", "."), content)) for name, content in contents.items()]


def _finished(client: httpx.Client, name: str, files: Files) -> JobResult:
    answer = client.post(f"/v1/collections/{name}/files", files=files)
    assert answer.status_code == 202, answer.text
    job_id = UploadResult.model_validate_json(answer.content).job_id
    assert answer.headers["location"] == f"/v1/jobs/{job_id}"
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        job = JobResult.model_validate_json(client.get(f"/v1/jobs/{job_id}").content)
        if job.state in ("done", "failed"):
            return job
        time.sleep(0.02)
    raise AssertionError(f"the job did not finish: {job}")


def test_files_become_documents(client: httpx.Client, name: str) -> None:
    """Each file is a document; a .jsonl file is one for each line; the job says what was done."""
    lines = b'{"_id": "one", "text": "first line"}\n{"_id": "two", "text": "second line", "metadata": {"n": 2}}\n'
    files = _files(leave_md=b"# Leave\n\nThirty days a year.", travel_txt=b"By train.", corpus_jsonl=lines)
    job = _finished(client, name, files)
    assert (job.state, job.collection, job.problem) == ("done", name, None)
    assert (job.documents, job.upserted, job.unchanged, job.skipped, job.files_done) == (4, 4, 0, 0, 3)
    assert [(file.name, file.documents, file.done, file.problem) for file in job.files] == [
        ("leave.md", 1, True, None),
        ("travel.txt", 1, True, None),
        ("corpus.jsonl", 2, True, None),
    ]
    assert job.created_at <= job.started_at <= job.finished_at  # type: ignore[operator]
    assert client.get(f"/v1/collections/{name}/documents/leave.md").json()["title"] == "Leave"
    assert client.get(f"/v1/collections/{name}/documents/two").json()["metadata"] == {"n": 2}


def test_again_embeds_nothing(client: httpx.Client, name: str, rag: retrieval.Ragstone) -> None:
    """The same upload again finds everything there already."""
    files = _files(leave_md=b"# Leave\n\nThirty days a year.")
    _finished(client, name, files)
    before = rag.embedder.stats().texts
    job = _finished(client, name, files)
    assert (job.state, job.upserted, job.unchanged, job.chunks) == ("done", 0, 1, 0)
    assert rag.embedder.stats().texts == before


def test_one_bad_file_stops_no_other(client: httpx.Client, name: str) -> None:
    """What cannot be read is reported file by file, and the others are ingested."""
    lines = b'{"_id": "kept", "text": "text"}\n{"_id": "empty", "text": " "}\nnonsense\n{"_id": "after", "text": "x"}\n'
    files = _files(latin_txt="é".encode("latin-1"), picture_png=b"\x89PNG", rows_jsonl=lines, good_txt=b"fine")
    job = _finished(client, name, files)
    assert (job.state, job.upserted, job.skipped) == ("done", 2, 1)
    problems = {file.name: file.problem for file in job.files}
    assert "not UTF-8" in (problems["latin.txt"] or "")
    assert ".jsonl" in (problems["picture.png"] or "")
    assert "line 3" in (problems["rows.jsonl"] or "")
    assert problems["good.txt"] is None
    assert [skipped.document_id for skipped in job.files[2].skipped_examples] == ["empty"]
    assert client.get(f"/v1/collections/{name}").json()["documents"] == 2


def test_all_bad_is_failed(client: httpx.Client, name: str) -> None:
    """A job none of whose files could be read has failed."""
    job = _finished(client, name, _files(latin_txt="é".encode("latin-1")))
    assert job.state == "failed"
    assert job.problem


def test_uploads_are_deleted(client: httpx.Client, name: str, rag: retrieval.Ragstone) -> None:
    """Once a job is done, the corpus keeps the documents and not the files."""
    job = _finished(client, name, _files(a_txt=b"some text", b_txt="é".encode("latin-1")))
    with rag.database.connection() as connection:
        rows = connection.execute("SELECT content FROM ragstone.job_file WHERE job_id = %s", (job.id,)).fetchall()
    assert rows == [(None,), (None,)]


@pytest.mark.parametrize(
    ("names", "code", "field"),
    [
        (["a.txt", "a.txt"], "duplicate_id", "files[1]"),
        (["n" * 2_000 + ".txt"], "invalid_input", "files[0]"),
        ([], "invalid_input", "files"),
    ],
)
def test_names(client: httpx.Client, empty: str, names: list[str], code: str, field: str) -> None:
    """A file name is a document's id: it is needed, once, and not endless."""
    files: Files = [("files", (one, b"text")) for one in names] or [("other", ("a.txt", b"text"))]
    found = client.post(f"/v1/collections/{empty}/files", files=files)
    assert problem(found, 422, code)["field"] == field


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"{}", {"content-type": "application/json"}, 415, "unsupported_media_type"),
        (b"nonsense", {"content-type": "multipart/form-data; boundary=b"}, 400, "malformed_body"),
        (b"--b", {"content-type": "multipart/form-data"}, 400, "malformed_body"),
    ],
)
def test_not_multipart(
    client: httpx.Client, empty: str, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    """What is no upload is refused."""
    problem(client.post(f"/v1/collections/{empty}/files", content=content, headers=headers), status, code)


def test_unknown_collection(client: httpx.Client) -> None:
    """Nothing is kept for a collection that is not there."""
    files: Any = _files(a_txt=b"text")
    problem(client.post("/v1/collections/nowhere/files", files=files), 404, "collection_not_found")
