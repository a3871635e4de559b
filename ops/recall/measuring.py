"""Measures recall on captured queries in the background, within a budget of seconds, in one process at a time."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from backends.corpus.collections import find_collection
from backends.corpus.database import Database
from backends.corpus.observations import (
    CapturedQuery,
    Measured,
    measuring_lock,
    record_measured,
    thin_history,
    unmeasured,
)
from backends.errors import CorpusUnavailable, IndexUnavailable, RagstoneError
from ops.moving.gentle import gentle_database
from ops.recall.truth import Examiner, compare, question_of
from ops.recall.watching import Watch
from retrieval.library import Ragstone

BATCH = 32
IDLE_S = 2.0
SPREAD_S = 10.0
"""After a rest there is what so many seconds have, and not the whole minute's at once."""
TRY_AGAIN_S = 15.0
"""How often the processes that do not measure see whether one is to take over."""
WATCH_EVERY_S = 30.0
THIN_EVERY_S = 3_600.0
HOURS_KEPT_S = 7 * 86_400.0
STOP_WITHIN_S = 5.0

log = logging.getLogger(__name__)


class Budget:
    """So many seconds of work in a minute, spread out. What one piece took too much, the next ones wait for."""

    def __init__(self, s_per_min: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = s_per_min / 60
        self._most_s = SPREAD_S * self._share
        self._clock = clock
        self._left_s = self._most_s
        self._filled_s = clock()

    def spend(self, took_s: float) -> None:
        """Count work that is done."""
        self._fill()
        self._left_s -= took_s

    def pause_s(self) -> float:
        """Return how long to wait before the next piece of work."""
        self._fill()
        return 0.0 if self._left_s > 0 else (0.01 - self._left_s) / self._share

    def _fill(self) -> None:
        now_s = self._clock()
        self._left_s = min(self._most_s, self._left_s + (now_s - self._filled_s) * self._share)
        self._filled_s = now_s


def measure(rag: Ragstone, gentle: Database, captured: CapturedQuery) -> Measured:
    """Measure one captured query, and write down what was found.

    The ids and scores that the user got are compared with the truth of now. Where the collection has changed since,
    they may be stale: the same index is then asked again, with the same effort, and what it finds now is compared.
    A query that another index answered, or whose truth takes too long, counts as measured without a recall. Raises
    CorpusUnavailable, and writes nothing down then.
    """
    try:
        found, at = _measured(rag, gentle, captured)
    except CorpusUnavailable:
        raise  # later
    except RagstoneError as error:
        log.info("a captured query of %s cannot be measured: %s", captured.collection, error)
        found, at = Measured(), None
    except Exception:  # else it would be the first to be tried for ever
        log.exception("a captured query of %s cannot be measured", captured.collection)
        found, at = Measured(), None
    record_measured(rag.database, captured, found, at)
    return found


def _measured(rag: Ragstone, gentle: Database, captured: CapturedQuery) -> tuple[Measured, datetime | None]:
    """Return what was found, and when that was searched; None for when the user did."""
    state = find_collection(rag.database, captured.collection)
    holds = (state.id, state.sequence) == (captured.collection_id, captured.sequence)
    if not holds and (state.id, state.backend) != (captured.collection_id, captured.backend):
        raise IndexUnavailable(f"{captured.backend} serves it no more, and what it found may be stale")
    examiner, question = Examiner(rag, gentle, state), question_of(captured)
    if not holds:
        chunks = examiner.found_untuned(question, captured.effort).hits
        ids, scores = [chunk.id for chunk in chunks], [chunk.score for chunk in chunks]
        return compare(ids, scores, examiner.truth(question), question, state.spec.metric), datetime.now(UTC)
    # What was answered exactly is the truth.
    truth = examiner.truth_of(captured.scores, question) if captured.exact else examiner.truth(question)
    return compare(captured.ids, captured.scores, truth, question, state.spec.metric), None


class Measurer:
    """One thread that measures, thins the history and watches, while no other process does."""

    def __init__(self, rag: Ragstone) -> None:
        self._rag = rag
        self._budget = Budget(rag.settings.recall_budget_s_per_min)
        self._watch = Watch(rag)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ragstone-recall", daemon=True)
        self._watched_s = self._thinned_s = float("-inf")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure while the block runs. An exact search under way in the end is not waited for for long."""
        self._thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            self._thread.join(STOP_WITHIN_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with gentle_database(self._rag) as gentle:
                    self._take_turns(gentle)
            except RagstoneError as error:
                log.warning("recall: %s", error)
            except Exception:  # one that dies leaves recall unmeasured for good
                if not self._stopping.is_set():
                    log.exception("recall: unexpected error")
            self._stopping.wait(TRY_AGAIN_S)

    def _take_turns(self, gentle: Database) -> None:
        while not self._stopping.is_set():
            with measuring_lock(gentle) as lock:
                while lock is not None and not self._stopping.is_set():
                    lock.require()
                    if not self.work(gentle):
                        self._stopping.wait(IDLE_S)
            self._stopping.wait(TRY_AGAIN_S)

    def work(self, gentle: Database) -> int:
        """Do what is due, measure some queries as the budget allows, and return how many."""
        self._look_after()
        waiting = unmeasured(self._rag.database, BATCH)
        done = 0
        for captured in waiting:
            if self._stopping.wait(self._budget.pause_s()):
                break
            began_s = time.monotonic()
            measure(self._rag, gentle, captured)
            self._budget.spend(time.monotonic() - began_s)
            done += 1
        return done

    def _look_after(self) -> None:
        now_s = time.monotonic()
        if now_s - self._watched_s > WATCH_EVERY_S:
            self._watched_s = now_s
            self._watch.look()
        if now_s - self._thinned_s > THIN_EVERY_S:
            self._thinned_s = now_s
            thin_history(self._rag.database, HOURS_KEPT_S)
