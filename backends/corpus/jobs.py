"""Jobs: files that were sent in, kept in the corpus until a worker has ingested them.

A worker takes a job for as long as its lease runs, and extends the lease while it works. Where it dies, the lease
ends and the next worker goes on with the files that are not done. Whoever lost its lease changes nothing any more.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from psycopg.types.json import Jsonb

from backends.corpus.database import Connection, Database
from backends.corpus.queries import query
from backends.errors import CollectionNotFound, JobNotFound

JobState = Literal["queued", "running", "done", "failed"]

KEPT_S = 7 * 24 * 3600
"""How long a finished job can be asked about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFile:
    """One file of a job. `documents` were read from it and settled; `skipped` of them could not be kept."""

    name: str
    size_bytes: int
    documents: int
    done: bool
    problem: str | None
    skipped: int
    skipped_examples: list[dict[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """How a job stands. What was not upserted and not skipped was there already as it is."""

    id: str
    collection: str
    state: JobState
    files: list[JobFile]
    upserted: int
    chunks: int
    problem: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def documents(self) -> int:
        return sum(file.documents for file in self.files)

    @property
    def skipped(self) -> int:
        return sum(file.skipped for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenJob:
    """A job in the hands of a worker. `tries` counts this one, since the job last came further than ever before.

    `settled`, `upserted` and `chunks` are what earlier tries did for good: documents of the files that are done,
    documents written, and their chunks.
    """

    id: str
    worker: str
    collection: str
    collection_exists: bool
    tries: int
    settled: int
    upserted: int
    chunks: int
    problem: str | None
    waiting: list[tuple[int, str]]
    """Number and name of each file that is not done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileProgress:
    """How far one file has come."""

    number: int
    documents: int
    done: bool
    problem: str | None = None
    skipped: int = 0
    skipped_examples: list[dict[str, str]] = field(default_factory=list)


class Jobs:
    """The jobs of a corpus. Safe to use from any thread and any process."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, collection: str, files: Iterable[tuple[str, bytes]]) -> str:
        """Keep files (name and content) for a collection, durably, and return the job's id.

        Raises CollectionNotFound.
        """
        with self._database.transaction() as connection:
            connection.execute(query("jobs", "forget_finished"), {"kept_s": KEPT_S})
            row = connection.execute(query("jobs", "create_job"), {"collection": collection}).fetchone()
            if row is None:
                raise CollectionNotFound(f"there is no collection {collection!r}; create it first")
            for number, (name, content) in enumerate(files):
                values = {"job_id": row[0], "number": number, "name": name, "size_bytes": len(content)}
                connection.execute(query("jobs", "add_file"), {**values, "content": content})
        return str(row[0])

    def get(self, job_id: str) -> Job:
        """Return how a job stands; raises JobNotFound, also a week after it finished."""
        values = {"job_id": _parsed(job_id)}
        with self._database.connection() as connection, connection.transaction():
            row = connection.execute(query("jobs", "find_job"), values).fetchone()
            files = connection.execute(query("jobs", "job_files"), values).fetchall()
        if row is None:
            raise _unknown(job_id)
        return _job(row, [_file(values) for values in files])

    def take(self, worker: str, lease_s: float) -> TakenJob | None:
        """Take the oldest job that is free, or None. The lease runs out after `lease_s` unless it is extended."""
        with self._database.transaction() as connection:
            row = connection.execute(query("jobs", "take_job"), {"worker": worker, "lease_s": lease_s}).fetchone()
            if row is None:
                return None
            waiting = connection.execute(query("jobs", "waiting_files"), {"job_id": row[0]}).fetchall()
        id_, collection, tries, upserted, chunks, problem, settled, exists = row
        return TakenJob(
            id=str(id_),
            worker=worker,
            collection=collection,
            collection_exists=exists,
            tries=tries,
            settled=settled,
            upserted=upserted,
            chunks=chunks,
            problem=problem,
            waiting=[(number, name) for number, name in waiting],
        )

    def content(self, job: TakenJob, number: int) -> bytes:
        """Return what is in a file that is not done."""
        with self._database.connection() as connection:
            values = {"job_id": job.id, "number": number}
            row = connection.execute(query("jobs", "file_content"), values, binary=True).fetchone()
        if row is None or row[0] is None:
            raise JobNotFound(f"file {number} of job {job.id} is gone: another worker has finished it")
        return bytes(row[0])

    def extend(self, job: TakenJob, lease_s: float) -> bool:
        """Extend the lease; False where it is lost, and the job is another worker's."""
        with self._database.connection() as connection:
            return _update(connection, "extend_lease", job, lease_s=lease_s)

    def record(self, job: TakenJob, files: Sequence[FileProgress], *, settled: int, upserted: int, chunks: int) -> bool:
        """Note how far this try has come: some of the files, and its totals. False where the lease is lost."""
        totals = {
            "settled": job.settled + settled,
            "upserted": job.upserted + upserted,
            "chunks": job.chunks + chunks,
            "finished": any(file.done for file in files),
        }
        with self._database.transaction() as connection:
            if not _update(connection, "record_job", job, **totals):
                return False
            for file in files:
                connection.execute(query("jobs", "record_file"), _file_values(job, file))
        return True

    def finish(self, job: TakenJob) -> bool:
        """End the job well. False where the lease is lost."""
        with self._database.connection() as connection:
            return _update(connection, "end_job", job, state="done", problem=None)

    def fail(self, job: TakenJob, problem: str) -> bool:
        """End the job for good, and drop what is left of its files. False where the lease is lost."""
        with self._database.transaction() as connection:
            if not _update(connection, "end_job", job, state="failed", problem=problem):
                return False
            connection.execute(query("jobs", "drop_contents"), {"job_id": job.id})
        return True

    def release(self, job: TakenJob, *, delay_s: float = 0, problem: str | None = None, counts: bool = False) -> bool:
        """Put the job back for a later try, which counts against it where it `counts`. False: the lease is lost."""
        with self._database.connection() as connection:
            return _update(connection, "release_job", job, delay_s=delay_s, problem=problem, counts=counts)


def _update(connection: Connection, name: str, job: TakenJob, **values: object) -> bool:
    cursor = connection.execute(query("jobs", name), {"job_id": job.id, "worker": job.worker, **values})
    return cursor.rowcount == 1


def _file_values(job: TakenJob, file: FileProgress) -> dict[str, object]:
    return {
        "job_id": job.id,
        "number": file.number,
        "documents": file.documents,
        "done": file.done,
        "problem": file.problem,
        "skipped": file.skipped,
        "examples": Jsonb(file.skipped_examples),
    }


def _job(row: Sequence[Any], files: list[JobFile]) -> Job:
    id_, collection, state, upserted, chunks, problem, created_at, started_at, finished_at = row
    return Job(
        id=str(id_),
        collection=collection,
        state=state,
        files=files,
        upserted=upserted,
        chunks=chunks,
        problem=problem,
        created_at=created_at,
        started_at=started_at,
        finished_at=finished_at,
    )


def _file(row: Sequence[Any]) -> JobFile:
    name, size_bytes, documents, done, problem, skipped, examples = row
    return JobFile(
        name=name,
        size_bytes=size_bytes,
        documents=documents,
        done=done,
        problem=problem,
        skipped=skipped,
        skipped_examples=examples,
    )


def _parsed(job_id: str) -> uuid.UUID:
    try:
        return uuid.UUID(job_id)
    except ValueError:
        raise _unknown(job_id) from None


def _unknown(job_id: str) -> JobNotFound:
    shown = job_id if len(job_id) <= 60 else job_id[:57] + "..."
    return JobNotFound(f"there is no job {shown!r}; a finished one is forgotten after {KEPT_S // 86400} days")
