"""How many threads share out the queries of one search: FAISS shares out queries, never one query.

Its team of threads waits by spinning, for milliseconds, so it is quick while every member has a core to itself. Where
one has to wait for a core, or is woken on a core where another spins, all wait for it: 32 queries that take 0.8 ms in
one thread took a team of two 0.4 ms on an idle machine of two cores, and 2 to 34 ms on a busy one. Nothing says
beforehand which it is, so what a team takes is compared with what one thread would have taken.
"""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from backends.faiss.library import faiss

T = TypeVar("T")

LEAST_S = 250e-6
"""A member's share of a search: for less it is not worth waking."""
WORTH = 1.5
"""A team that takes so many times as long as one thread would does not pay."""
LONGEST_PAUSE = 256

_counting = threading.Lock()
_searching = 0


class Sharing:
    """Remembers for one index what a query takes and whether teams pay. Any number of threads may use it at once.

    They may overwrite what the other notes: each value is an estimate, and any of them does.
    """

    def __init__(self) -> None:
        self._query_s = 0.0  # in one thread, of its own time; 0 until that was seen
        self._pause = 0  # searches in one thread after the next team that does not pay
        self._pausing = 0
        self._awake = False  # the search before had a team

    def search(self, queries: int, search: Callable[[], T]) -> T:
        """Search for so many queries in as many threads as pay; cores that other searches use are theirs."""
        most = faiss.omp_get_max_threads()
        searching = _count_search(1)
        count = 1 if queries == 1 else self._count(queries, most // searching)
        faiss.omp_set_num_threads(count)  # of those that FAISS has for this thread
        try:
            return search() if queries == 1 else self._timed(queries, count, search)
        finally:
            faiss.omp_set_num_threads(most)
            _count_search(-1)

    def _timed(self, queries: int, count: int, search: Callable[[], T]) -> T:
        began_s, began_thread_s = time.perf_counter(), time.thread_time()
        found = search()
        if count == 1:
            self._query_s = (time.thread_time() - began_thread_s) / queries
        else:
            self._note_team(count, (time.perf_counter() - began_s) / queries)
        self._awake = count > 1
        return found

    def _count(self, queries: int, most: int) -> int:
        """One until it is known what a query takes, and for a while after a team that did not pay."""
        count = min(queries, most, int(queries * self._query_s / LEAST_S))
        if count > 1 and self._pausing:
            self._pausing -= 1
            return 1
        return max(1, count)

    def _note_team(self, count: int, query_s: float) -> None:
        """Compare. A team that had slept wakes late: it is not judged, and the next search shows whether it pays.

        One failure may be chance; each more in a row doubles the pause. What a query takes in one thread is at most
        what all members had.
        """
        if query_s < WORTH * self._query_s:
            self._pause = 0
            self._query_s = min(self._query_s, count * query_s)
        elif self._awake:
            self._pausing = self._pause
            self._pause = min(2 * self._pause or 1, LONGEST_PAUSE)


def _count_search(change: int) -> int:
    """Count the searches of this process that are under way: one more, or one less."""
    global _searching
    with _counting:
        _searching += change
        return _searching
