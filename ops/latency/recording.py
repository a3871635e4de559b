"""Counts what each stage of each request takes, and gives it to the corpus once a minute."""

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

from backends.corpus.database import Database
from backends.corpus.latencies import MINUTE_S, LatencyRow, add_latencies, thin_latencies
from backends.errors import RagstoneError
from ops.latency.histogram import Histogram
from ops.latency.stages import OTHER, outcome_of, stages_by_length, stages_of
from retrieval.observing import Observed

MAX_COLLECTIONS = 50
"""Collections counted by name; those that are met later are counted together as "other"."""
MINUTES_KEPT = 60
"""How many minutes wait for a corpus that is away."""
THIN_WITHIN_S = 5.0
CLOSE_WITHIN_S = 5.0

log = logging.getLogger(__name__)


class Key(NamedTuple):
    """What is counted apart."""

    collection: str
    backend: str
    stage: str
    outcome: str


Histograms = dict[Key, Histogram]


class LatencyRecorder:
    """An observer that keeps a histogram for each collection, backend, stage and outcome. Safe from any thread.

    While `running()`, what was counted goes to the corpus at every full minute and in the end, and older minutes
    there are thinned. A process that is killed loses what it counted since the last full minute.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._process = uuid.uuid4()
        self._counting = threading.Lock()
        self._recent: Histograms = {}
        self._began_at = _this_minute()
        self._before: Histograms = {}
        self._named: set[str] = set()
        self._writing = threading.Lock()
        self._unwritten: deque[tuple[datetime, Histograms]] = deque()
        self._stopping = threading.Event()

    def __call__(self, observed: Observed) -> None:
        """Count the stages of a search or an answer."""
        name, backend = observed.collection.name, observed.collection.backend
        outcome = outcome_of(observed)
        with self._counting:
            collection = self._label(name)
            for stage, took_ms in (*stages_of(observed), *stages_by_length(observed)):
                key = Key(collection, backend, stage, outcome)
                histogram = self._recent.get(key)
                if histogram is None:
                    histogram = self._recent[key] = Histogram()
                histogram.add(took_ms)

    def histograms(self) -> Histograms:
        """Return all that this process has counted, as it is now."""
        with self._counting:
            return _merged(self._before, self._recent)

    def unwritten(self) -> Histograms:
        """Return what this process has counted and the corpus does not have yet."""
        with self._writing, self._counting:
            return _merged(*(histograms for _, histograms in self._unwritten), self._recent)

    def flush(self) -> None:
        """Give the corpus what was counted up to now.

        Raises CorpusUnavailable where it is away; what was counted is kept for the next time, up to an hour of it.
        """
        with self._writing:
            self._end_minute()
            while self._unwritten:
                began_at, histograms = self._unwritten[0]
                rows = [_row(key, histogram) for key, histogram in histograms.items()]
                add_latencies(self._database, self._process, began_at, rows)
                self._unwritten.popleft()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Write at every full minute while the block runs, and once more at its end."""
        self._stopping.clear()
        # A daemon: a PostgreSQL that hangs is not to keep the process from ending.
        thread = threading.Thread(target=self._run, name="ragstone-latency", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            thread.join(CLOSE_WITHIN_S)
            if thread.is_alive():
                log.warning("latencies: the corpus did not take those of the last minute in %.0f s", CLOSE_WITHIN_S)

    def _run(self) -> None:
        while not self._stopping.wait(MINUTE_S - time.time() % MINUTE_S):
            self._attempt_flush()
            self._attempt_thinning()
        self._attempt_flush()

    def _attempt_flush(self) -> None:
        try:
            self.flush()
        except RagstoneError as error:
            log.warning("latencies: %s", error)
        except Exception:  # a recorder that dies loses every later minute
            log.exception("latencies: unexpected error")

    def _attempt_thinning(self) -> None:
        try:
            thin(self._database, self._stopping)
        except RagstoneError as error:
            log.warning("latencies: %s", error)
        except Exception:
            log.exception("latencies: thinning them failed")

    def _label(self, name: str) -> str:
        if name in self._named:
            return name
        if len(self._named) >= MAX_COLLECTIONS:
            return OTHER
        self._named.add(name)
        return name

    def _end_minute(self) -> None:
        with self._counting:
            ended, self._recent = self._recent, {}
            began_at, self._began_at = self._began_at, _this_minute()
            _include(self._before, ended)
        if ended:
            self._unwritten.append((began_at, ended))
        if len(self._unwritten) > MINUTES_KEPT:
            lost_at, _ = self._unwritten.popleft()
            log.warning("latencies: those of %s are lost, the corpus was away too long", lost_at.isoformat())


def thin(database: Database, stopping: threading.Event | None = None) -> None:
    """Add up minutes and hours that are old enough, and forget what is too old, for no longer than THIN_WITHIN_S."""
    deadline_s = time.monotonic() + THIN_WITHIN_S
    while time.monotonic() < deadline_s and not (stopping and stopping.is_set()):
        if thin_latencies(database) != "some":
            return


def _this_minute() -> datetime:
    return datetime.now(UTC).replace(second=0, microsecond=0)


def _merged(*parts: Histograms) -> Histograms:
    merged: Histograms = {}
    for part in parts:
        _include(merged, part)
    return merged


def _include(whole: Histograms, part: Histograms) -> None:
    for key, histogram in part.items():
        whole.setdefault(key, Histogram()).merge(histogram)


def _row(key: Key, histogram: Histogram) -> LatencyRow:
    buckets, counts = histogram.sparse()
    return LatencyRow(**key._asdict(), buckets=buckets, counts=counts, sum_ms=histogram.sum_ms, max_ms=histogram.max_ms)
