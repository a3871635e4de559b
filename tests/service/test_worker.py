"""The queue of jobs and its worker, when things go wrong."""

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import retrieval
from backends.corpus.jobs import FileProgress, Job, Jobs, TakenJob
from backends.errors import EmbedderUnavailable, QueueFull
from retrieval.config import load
from retrieval.service import worker as worker_module
from retrieval.service.worker import MAX_TRIES, IngestWorker
from tests.service.serving import database_of_its_own


@pytest.fixture(scope="module")
def rag(postgres_url: str) -> Iterator[retrieval.Ragstone]:
    """A corpus that no service works on."""
    settings = load(embedding_model="hashing")
    with database_of_its_own(postgres_url, "worker") as url, retrieval.open(url, settings=settings) as rag:
        yield rag


@pytest.fixture
def collection(rag: retrieval.Ragstone) -> retrieval.Collection:
    return rag.create_collection(f"c{uuid.uuid4().hex}")


@pytest.fixture
def worker(rag: retrieval.Ragstone, monkeypatch: pytest.MonkeyPatch) -> Iterator[IngestWorker]:
    """A worker that does not wait before it tries again."""
    monkeypatch.setattr(worker_module, "RETRY_S", 0.0)
    monkeypatch.setattr(worker_module, "POLL_S", 0.05)
    worker = IngestWorker(rag)
    worker.start()
    yield worker
    worker.stop()


@pytest.fixture
def jobs(rag: retrieval.Ragstone) -> Iterator[Jobs]:
    """The queue, empty before and after."""
    yield rag.jobs
    with rag.database.connection() as connection:
        connection.execute("DELETE FROM ragstone.job")


def _taken(jobs: Jobs, worker: str = "w", lease_s: float = 60) -> TakenJob:
    job = jobs.take(worker, lease_s)
    assert job is not None
    return job


def _ended(jobs: Jobs, job_id: str) -> Job:
    for _ in range(500):
        job = jobs.get(job_id)
        if job.state in ("done", "failed"):
            return job
        time.sleep(0.02)
    raise AssertionError(f"the job did not end: {job}")


def test_one_worker_a_job(jobs: Jobs, collection: retrieval.Collection) -> None:
    """A job is taken once while its lease runs, the oldest first."""
    ids = [jobs.create(collection.name, [("a.txt", b"a")]) for _ in range(2)]
    assert [_taken(jobs).id, _taken(jobs).id] == ids
    assert jobs.take("w", 60) is None


def test_workers_do_not_meet(jobs: Jobs, collection: retrieval.Collection) -> None:
    """Workers that take at the same moment get different jobs, and every job is taken."""
    ids = [jobs.create(collection.name, [("a.txt", b"a")]) for _ in range(24)]
    taken: list[str] = []

    def take_all(number: int) -> None:
        while job := jobs.take(f"worker {number}", 60):
            taken.append(job.id)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(take_all, range(6)))
    assert sorted(taken) == sorted(ids)


def test_a_lease_that_ends(jobs: Jobs, collection: retrieval.Collection) -> None:
    """A job whose worker is silent goes to the next one, and the first changes nothing any more."""
    jobs.create(collection.name, [("a.txt", b"a"), ("b.txt", b"b")])
    first = _taken(jobs, "first", lease_s=0)
    second = _taken(jobs, "second")
    assert (second.id, second.tries) == (first.id, 2)
    assert not jobs.record(first, [FileProgress(number=0, documents=1, done=True)], settled=1, upserted=1, chunks=1)
    assert not jobs.extend(first, 60)
    assert not jobs.finish(first)
    assert not jobs.fail(first, "late")
    assert not jobs.release(first)
    assert (jobs.get(first.id).state, jobs.get(first.id).documents) == ("running", 0)


def test_what_is_done_stays_done(jobs: Jobs, collection: retrieval.Collection) -> None:
    """A later try gets the files that are not done, with the totals so far and tries of its own."""
    jobs.create(collection.name, [("a.txt", b"a"), ("b.txt", b"b")])
    first = _taken(jobs, lease_s=60)
    assert jobs.record(first, [FileProgress(number=0, documents=1, done=True)], settled=1, upserted=1, chunks=3)
    assert jobs.release(first)
    second = _taken(jobs)
    assert second.waiting == [(1, "b.txt")]
    assert (second.settled, second.upserted, second.chunks, second.tries) == (1, 1, 3, 1)
    assert jobs.content(second, 1) == b"b"


def test_tries_count_from_where_it_got_stuck(jobs: Jobs, collection: retrieval.Collection) -> None:
    """A try that comes further than all before it is not held against the job; one that does not is."""
    jobs.create(collection.name, [("a.txt", b"a")])
    tries = []
    for documents in (10, 20, 20, 5):
        job = _taken(jobs, lease_s=0)
        tries.append(job.tries)
        progress = FileProgress(number=0, documents=documents, done=False)
        assert jobs.record(job, [progress], settled=documents, upserted=0, chunks=0)
    assert tries == [1, 1, 1, 2]
    assert _taken(jobs).tries == 3
    assert jobs.get(job.id).documents == 20


def test_any_bytes_are_kept(jobs: Jobs, collection: retrieval.Collection) -> None:
    """A file is kept byte by byte, whatever is in it, also nothing."""
    data = bytes(range(256)) * 1_000
    jobs.create(collection.name, [("a.txt", data), ("b.txt", b"")])
    job = _taken(jobs)
    assert (jobs.content(job, 0), jobs.content(job, 1)) == (data, b"")


def test_given_up_after_crashes(jobs: Jobs, rag: retrieval.Ragstone, collection: retrieval.Collection) -> None:
    """A job that took its worker with it each time is not tried for ever, and says at which file."""
    job_id = jobs.create(collection.name, [("deadly.txt", b"a")])
    for _ in range(MAX_TRIES):
        _taken(jobs, lease_s=0)
    again = IngestWorker(rag)  # as the next process would
    again.start()
    job = _ended(jobs, job_id)
    again.stop()
    assert job.state == "failed"
    assert "deadly.txt" in (job.problem or "")


def test_given_up_after_errors(
    jobs: Jobs, collection: retrieval.Collection, worker: IngestWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that nobody foresaw is tried again, three times, and then told without its internals."""
    tries = []

    def broken(*_: object) -> None:
        tries.append(1)
        raise ZeroDivisionError("the secret of the house")

    monkeypatch.setattr(worker_module, "parse_bytes", broken)
    job = _ended(jobs, jobs.create(collection.name, [("a.txt", b"a")]))
    assert (job.state, len(tries)) == ("failed", MAX_TRIES)
    assert "ZeroDivisionError" in (job.problem or "")
    assert "secret" not in (job.problem or "")


@pytest.mark.parametrize("error", [EmbedderUnavailable("the endpoint is away"), QueueFull("full", 0.01)])
def test_waits_for_what_is_away(
    jobs: Jobs,
    collection: retrieval.Collection,
    worker: IngestWorker,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    """What is away or busy for longer than three tries costs a job nothing but time."""
    left = [error] * (MAX_TRIES + 3)
    upsert = retrieval.Collection.upsert

    def away(self: retrieval.Collection, *args: object, **options: object) -> object:
        if left:
            raise left.pop()
        return upsert(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(retrieval.Collection, "upsert", away)
    job = _ended(jobs, jobs.create(collection.name, [("a.txt", b"text")]))
    assert (job.state, job.upserted, job.problem) == ("done", 1, None)


def test_collection_deleted_meanwhile(jobs: Jobs, rag: retrieval.Ragstone, collection: retrieval.Collection) -> None:
    """Files for a collection that was deleted do not end up in another one of the same name."""
    job_id = jobs.create(collection.name, [("a.txt", b"text")])
    rag.delete_collection(collection.name)
    other = rag.create_collection(collection.name)
    again = IngestWorker(rag)
    again.start()
    job = _ended(jobs, job_id)
    again.stop()
    assert job.state == "failed"
    assert "deleted" in (job.problem or "")
    assert other.count() == 0


def test_stopped_in_the_middle(
    jobs: Jobs, rag: retrieval.Ragstone, collection: retrieval.Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is told to stop puts its job back at once, and the next one ends it."""
    monkeypatch.setattr("retrieval.ingest.BATCH_DOCUMENTS", 10)
    lines = b"".join(b'{"_id": "d%d", "text": "text %d"}\n' % (i, i) for i in range(2_000))
    job_id = jobs.create(collection.name, [("rows.jsonl", lines)])
    first = IngestWorker(rag)
    first.start()
    while jobs.get(job_id).documents < 100:
        time.sleep(0.01)
    first.stop()
    stopped = jobs.get(job_id)
    assert stopped.state == "queued"
    assert 100 <= stopped.documents < 2_000
    second = IngestWorker(rag)
    second.start()
    job = _ended(jobs, job_id)
    second.stop()
    assert (job.state, job.documents, job.upserted, collection.count()) == ("done", 2_000, 2_000, 2_000)


def test_old_jobs_are_forgotten(jobs: Jobs, rag: retrieval.Ragstone, collection: retrieval.Collection) -> None:
    """A job that finished more than a week ago goes when the next one comes."""
    old = jobs.create(collection.name, [("a.txt", b"a")])
    assert jobs.finish(_taken(jobs))
    with rag.database.connection() as connection:
        connection.execute("UPDATE ragstone.job SET finished_at = now() - interval '8 days'")
    jobs.create(collection.name, [("a.txt", b"a")])
    with pytest.raises(retrieval.RagstoneError, match="there is no job"):
        jobs.get(old)
