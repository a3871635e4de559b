"""The thread that ingests what was uploaded, one job after the other."""

import logging
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from backends.corpus.jobs import FileProgress, TakenJob
from backends.errors import Busy, RagstoneError, Unavailable
from retrieval.documents import Document
from retrieval.ingest import FileReport, IngestReport, Source, ingest
from retrieval.library import Ragstone
from retrieval.parsing import parse_bytes

LEASE_S = 10.0
HEARTBEAT_S = 3.0
POLL_S = 2.0
"""How soon a job is noticed that another process left behind; this one's own are noticed at once."""
MAX_TRIES = 3
RETRY_S = 5.0

log = logging.getLogger(__name__)


class _Stopped(Exception):
    """The service is being stopped, or the job is another worker's by now."""


class IngestWorker:
    """Takes jobs from the corpus while it runs. What it leaves unfinished, the next worker goes on with."""

    def __init__(self, rag: Ragstone) -> None:
        self._rag = rag
        self._id = uuid.uuid4().hex
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ragstone-ingest", daemon=True)

    def start(self) -> None:
        """Begin to work, on jobs of earlier processes too."""
        self._thread.start()

    def stop(self) -> None:
        """Put the job under way back into the queue, and return when the thread has ended."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()

    def wake(self) -> None:
        """Say that there is a new job."""
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                job = self._rag.jobs.take(self._id, LEASE_S)
                if job is not None:
                    self._work(job)
                    continue
            except RagstoneError as error:  # the corpus is away: whatever was begun is found again by its lease
                log.warning("jobs: %s", error)
            except Exception:
                log.exception("jobs: unexpected error")
            self._wake.wait(POLL_S)

    def _work(self, job: TakenJob) -> None:
        if job.tries > MAX_TRIES:
            name = job.waiting[0][1] if job.waiting else ""
            why = job.problem or "the service stopped in the middle of it each time"
            self._rag.jobs.fail(job, f"given up after {MAX_TRIES} tries at the file {name!r}: {why}")
            return
        if not job.collection_exists:
            self._rag.jobs.fail(job, f"the collection {job.collection!r} was deleted before the files were ingested")
            return
        try:
            with self._lease(job) as lost:
                self._ingest(job, lost)
        except _Stopped:
            self._rag.jobs.release(job)
        except (Busy, Unavailable) as error:
            self._rag.jobs.release(job, delay_s=RETRY_S, problem=f"waiting: {error}")
        except RagstoneError as error:
            self._rag.jobs.fail(job, str(error))
        except Exception as error:
            log.exception("job %s: try %d failed", job.id, job.tries)
            problem = f"unexpected {type(error).__name__}; the service's log has it"
            self._rag.jobs.release(job, delay_s=RETRY_S, problem=problem, counts=True)

    def _ingest(self, job: TakenJob, lost: threading.Event) -> None:
        record = _Record(self._rag, job)

        def watch(report: IngestReport) -> None:
            record(report)
            if self._stopping.is_set() or lost.is_set():
                raise _Stopped

        sources = [Source(name, partial(self._read, job, number, name)) for number, name in job.waiting]
        ingest(self._rag.collection(job.collection), sources, watch)
        files = self._rag.jobs.get(job.id).files
        if all(file.problem for file in files):
            self._rag.jobs.fail(job, "none of the files could be read; each says why")
        else:
            self._rag.jobs.finish(job)
        log.info("job %s: %d documents in %d files", job.id, sum(file.documents for file in files), len(files))

    def _read(self, job: TakenJob, number: int, name: str) -> Iterator[Document]:
        return parse_bytes(name, self._rag.jobs.content(job, number))

    @contextmanager
    def _lease(self, job: TakenJob) -> Iterator[threading.Event]:
        """Extend the lease for as long as the block runs; the event says that it was lost all the same."""
        lost, ended = threading.Event(), threading.Event()
        heart = threading.Thread(target=self._beat, args=(job, lost, ended), name="ragstone-ingest-lease")
        heart.start()
        try:
            yield lost
        finally:
            ended.set()
            heart.join()

    def _beat(self, job: TakenJob, lost: threading.Event, ended: threading.Event) -> None:
        while not ended.wait(HEARTBEAT_S):
            try:
                if not self._rag.jobs.extend(job, LEASE_S):
                    lost.set()
                    return
            except RagstoneError as error:  # the next beat may succeed, while the lease lasts
                log.warning("job %s: the lease could not be extended: %s", job.id, error)


class _Record:
    """Writes a report down where it says more than the last time: each file's state, and the job's totals."""

    def __init__(self, rag: Ragstone, job: TakenJob) -> None:
        self._rag = rag
        self._job = job
        self._recorded = 0, 0

    def __call__(self, report: IngestReport) -> None:
        done = sum(file.done for file in report.files)
        if (report.documents, done) == self._recorded:
            return
        begun = list(zip(self._job.waiting, report.files, strict=False))
        files = [_progress(number, file) for (number, _), file in begun[self._recorded[1] :]]
        totals = {"settled": report.documents, "upserted": report.upserted, "chunks": report.chunks}
        if not self._rag.jobs.record(self._job, files, **totals):
            raise _Stopped
        self._recorded = report.documents, done


def _progress(number: int, file: FileReport) -> FileProgress:
    return FileProgress(
        number=number,
        documents=file.documents,
        done=file.done,
        problem=file.problem,
        skipped=file.skipped,
        skipped_examples=[
            {"document_id": skipped.document_id, "problem": skipped.problem} for skipped in file.skipped_examples
        ],
    )
