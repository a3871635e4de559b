"""How far a move is, written down where everybody sees it; and whether somebody wants it to stop."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from backends.corpus.database import Database
from backends.corpus.moves import Move, Phase, record_progress
from backends.errors import RagstoneError

REPORT_EVERY_S = 0.5


class Cancelled(Exception):
    """Somebody wants the move to stop, or has ended it."""


class MoveProgress:
    """One move's progress: chunks built of how many, in which phase."""

    def __init__(self, database: Database, move: Move, index_id: int, chunks: int) -> None:
        self._database = database
        self._move = move
        self._index_id = index_id
        self._phase: Phase = "building"
        self._done = 0
        self._total = chunks
        self._took_s: float | None = None
        self._reported_s = 0.0

    def report(self, phase: Phase) -> None:
        """Enter a phase. Raises Cancelled."""
        self._phase = phase
        self._write()

    def add(self, chunks: int) -> None:
        """Count chunks that were built. Raises Cancelled, now and then."""
        self._done += chunks
        self._total = max(self._total, self._done)
        self.look()

    def built(self, took_s: float) -> None:
        """The build is done: what it took is what the next plan reckons with."""
        self._done, self._took_s = self._total, took_s
        self._write()

    def look(self) -> None:
        """Write down how far it is and raise Cancelled where that is wanted; not more often than is of use."""
        if time.monotonic() - self._reported_s >= REPORT_EVERY_S:
            self._write()

    @contextmanager
    def watching(self, measure: Callable[[], tuple[int, int]], stop: Callable[[], None]) -> Iterator[None]:
        """Report what `measure` says (done, total) while the block runs, and call `stop` on a cancel.

        Raises Cancelled at the end where `stop` was called.
        """
        ended, cancelled = threading.Event(), threading.Event()

        def watch() -> None:
            while not ended.wait(REPORT_EVERY_S):
                try:
                    done, total = measure()
                    self._done = self._total * done // total if total else self._done
                    self._write()
                except Cancelled:
                    cancelled.set()
                    stop()
                except RagstoneError:
                    continue  # the build itself says what is wrong

        thread = threading.Thread(target=watch, name="ragstone-move-progress")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            if cancelled.is_set():
                raise Cancelled

    def _write(self) -> None:
        self._reported_s = time.monotonic()
        if not record_progress(
            self._database, self._move, self._phase, self._done, self._total, self._index_id, self._took_s
        ):
            raise Cancelled
