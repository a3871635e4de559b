"""An upload that was acknowledged is ingested, also when the service is killed in the middle of it."""

import json
import time
from pathlib import Path
from typing import Any

import httpx

from tests.acceptance.command import Ragstone

DOCUMENTS = 20_000
KILLS = 2
GOES_ON_WITHIN_S = 60


def _beyond(url: str, job_id: str, documents: int) -> dict[str, Any]:
    """Wait until the job has settled more than `documents`, or ended."""
    deadline_s = time.monotonic() + GOES_ON_WITHIN_S
    while time.monotonic() < deadline_s:
        job: dict[str, Any] = httpx.get(f"{url}/v1/jobs/{job_id}", timeout=30).json()
        if job["documents"] > documents or job["state"] in ("done", "failed"):
            return job
        time.sleep(0.05)
    raise AssertionError(f"the job did not go on: {job}")


def _upload(url: str, contents: dict[str, bytes]) -> str:
    httpx.post(f"{url}/v1/collections", json={"name": "c"}, timeout=60).raise_for_status()
    files = [("files", file) for file in contents.items()]
    answer = httpx.post(f"{url}/v1/collections/c/files", files=files, timeout=60)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["job_id"])


def test_killed_in_the_middle_of_a_job(tmp_path: Path) -> None:
    """Killed twice while it ingests one upload, the service ends it without a hand, and loses nothing."""
    ragstone = Ragstone(tmp_path / "data")
    rows = [{"_id": f"d{n}", "text": f"the document of the number {n}"} for n in range(DOCUMENTS)]
    contents = {"rows.jsonl": "\n".join(map(json.dumps, rows)).encode(), "b.md": b"# B\n\nlast"}
    job_id, reached = None, 0
    for _ in range(KILLS):
        with ragstone.serving() as server:
            job_id = job_id or _upload(server.url, contents)
            job = _beyond(server.url, job_id, reached)
            assert job["state"] == "running", job
            reached = job["documents"]
            server.process.kill()
    with ragstone.serving() as server:
        assert job_id is not None
        while job["state"] not in ("done", "failed"):
            job = _beyond(server.url, job_id, job["documents"])
        assert (job["state"], job["documents"], job["files_done"]) == ("done", DOCUMENTS + 1, 2), job
        assert httpx.get(f"{server.url}/v1/collections/c").json()["documents"] == DOCUMENTS + 1
        last = httpx.get(f"{server.url}/v1/collections/c/documents/d{DOCUMENTS - 1}").json()
        assert last["text"] == rows[-1]["text"]
