"""Keeps a sample of what users ask: recall is measured on it, since made-up queries are easier or harder."""

import json
import logging
import queue
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from backends.corpus.database import Database
from backends.corpus.observations import NewCapture, capture, forget_captured, prune_captured
from backends.errors import RagstoneError
from retrieval.config import Settings
from retrieval.observing import Observed, SearchObserved

WAITING = 256
"""Queries that may wait to be written; where there are more, they are dropped."""
KEPT_S = 30 * 86_400.0
PRUNE_EVERY_S = 30.0
FORGET_EVERY_S = 3_600.0
STOP_WITHIN_S = 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What was observed, and when its search began; the filter as JSON, since the caller may change his."""

    observed: SearchObserved
    filter: str | None
    began_s: float


@dataclass(slots=True)
class _Written:
    """What the thread that writes remembers: numbers of the change sequence with when they were read, and its turns."""

    sequences: dict[int, tuple[float, int]] = field(default_factory=dict)
    to_prune: set[int] = field(default_factory=set)
    pruned_s: float = field(default_factory=time.monotonic)
    forgot_s: float = float("-inf")
    failing: bool = False


class Capture:
    """An observer that keeps a share of the searches, drawn at random, through one thread.

    A request never waits for it. `captured` and `dropped` count what became of the searches that were drawn.
    """

    def __init__(self, database: Database, settings: Settings, seed: int | None = None) -> None:
        self._database = database
        self._share = settings.recall_sample
        self._kept = settings.recall_kept_queries
        self._random = random.Random(seed)  # noqa: S311  # a sample, no secret
        self._waiting: queue.Queue[_Waiting | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="ragstone-recall-capture", daemon=True)
        self._written = _Written()
        self.captured = 0
        self.dropped = 0

    def __call__(self, observed: Observed) -> None:
        """Take a search into the sample, or not."""
        if not isinstance(observed, SearchObserved) or observed.outcome != "ok" or observed.asked_exactly:
            return
        if self._random.random() >= self._share:
            return
        # With the total among them the stages count twice: earlier than it began is safe.
        began_s = time.monotonic() - sum(observed.timings_ms.values()) / 1000
        filter = None if not observed.filter else json.dumps(observed.filter)
        try:
            self._waiting.put_nowait(_Waiting(observed, filter, began_s))
        except queue.Full:
            self.dropped += 1

    @contextmanager
    def running(self) -> Iterator[None]:
        """Write while the block runs; what still waits is written in the end."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop()

    def _stop(self) -> None:
        try:
            self._waiting.put(None, timeout=STOP_WITHIN_S)
        except queue.Full:
            log.warning("%d captured queries are lost: the corpus does not take them", self._waiting.qsize())
        self._thread.join(STOP_WITHIN_S)

    def _run(self) -> None:
        while True:
            try:
                waiting = self._waiting.get(timeout=PRUNE_EVERY_S)
            except queue.Empty:
                self._tidy()
                continue
            if waiting is None:
                self._tidy(last=True)
                return
            self._write(waiting)
            self._tidy()

    def _write(self, waiting: _Waiting) -> None:
        try:
            collection_id = waiting.observed.collection.id
            sequence = capture(self._database, self._new(waiting))
        except Exception as error:  # it is but one of a sample
            self.dropped += 1
            log.log(logging.DEBUG if self._written.failing else logging.WARNING, "captured queries are lost: %s", error)
            self._written.failing = True
            return
        self._written.failing = False
        if sequence is None:
            self._written.sequences.pop(collection_id, None)
            return
        self.captured += 1
        self._written.sequences[collection_id] = time.monotonic(), sequence
        self._written.to_prune.add(collection_id)

    def _new(self, waiting: _Waiting) -> NewCapture:
        observed = waiting.observed
        return NewCapture(
            collection_id=observed.collection.id,
            backend=observed.backend,
            embedding=observed.embedding,
            filter=None if waiting.filter is None else json.loads(waiting.filter),
            top_k=observed.top_k,
            effort=observed.effort,
            ids=observed.ids,
            scores=observed.scores,
            exact=observed.exact,
            sequence=self._sequence_before(waiting),
            search_ms=sum(observed.timings_ms.get(stage, 0.0) for stage in ("search", "corpus")),
        )

    def _sequence_before(self, waiting: _Waiting) -> int:
        """Return a number of the change sequence read before the search began: no change since, and its hits hold."""
        known = waiting.observed.collection.sequence
        read_s, sequence = self._written.sequences.get(waiting.observed.collection.id, (0.0, known))
        return max(known, sequence) if read_s < waiting.began_s else known

    def _tidy(self, *, last: bool = False) -> None:
        """Keep the bounds, now and then."""
        now_s = time.monotonic()
        written = self._written
        try:
            if last or now_s - written.pruned_s > PRUNE_EVERY_S:
                written.pruned_s = now_s
                while written.to_prune:
                    prune_captured(self._database, written.to_prune.pop(), self._kept)
            if now_s - written.forgot_s > FORGET_EVERY_S:
                written.forgot_s = now_s
                forget_captured(self._database, KEPT_S)
        except RagstoneError as error:
            log.warning("captured queries: %s", error)
