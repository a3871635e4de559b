"""Keeps the slowest searches, with what PostgreSQL plans for them."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from backends.corpus.explaining import ExplainingDatabase
from backends.corpus.latencies import add_slow_search
from backends.corpus.search import run
from backends.errors import NotFound, RagstoneError
from backends.filters import parse
from backends.pgvector import PgvectorIndex
from backends.types import IndexIdentity
from retrieval.library import Ragstone
from retrieval.observing import Observed, SearchObserved

KEEP_EVERY_S = 5.0
"""Of the searches of so many seconds, only the slowest is kept: explaining is to cost next to nothing."""
CLOSE_WITHIN_S = 5.0

log = logging.getLogger(__name__)


class SlowSearches:
    """An observer that keeps what took `slow_query_ms` or more. Safe from any thread.

    Only while `running()`: a thread of its own asks PostgreSQL for the plan and writes both down.
    """

    def __init__(self, rag: Ragstone) -> None:
        self._rag = rag
        self._least_ms = rag.settings.slow_query_ms
        self._lock = threading.Lock()
        self._slowest: SearchObserved | None = None
        self._wake = threading.Event()
        self._stopping = threading.Event()

    def __call__(self, observed: Observed) -> None:
        """Hold on to a search that is slow, unless a slower one waits to be kept."""
        if not isinstance(observed, SearchObserved) or observed.timings_ms.get("total", 0) < self._least_ms:
            return
        with self._lock:
            waiting = self._slowest
            if waiting is None or observed.timings_ms["total"] > waiting.timings_ms["total"]:
                self._slowest = observed
        self._wake.set()

    def keep(self) -> None:
        """Write down the search that waits to be kept, if there is one. Raises CorpusUnavailable."""
        with self._lock:
            observed, self._slowest = self._slowest, None
        if observed is not None:
            self._keep(observed)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Keep slow searches while the block runs."""
        self._stopping.clear()
        thread = threading.Thread(target=self._run, name="ragstone-slow-searches", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            self._wake.set()
            thread.join(CLOSE_WITHIN_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait()
            self._wake.clear()
            self._attempt()
            self._stopping.wait(KEEP_EVERY_S)
        self._attempt()

    def _attempt(self) -> None:
        try:
            self.keep()
        except RagstoneError as error:
            log.warning("slow searches: %s", error)
        except Exception:  # the next slow search may be kept all the same
            log.exception("slow searches: unexpected error")

    def _keep(self, observed: SearchObserved) -> None:
        add_slow_search(
            self._rag.database,
            observed.collection.id,
            backend=observed.backend,
            top_k=observed.top_k,
            filter=observed.filter,
            effort=observed.effort,
            exact=observed.exact,
            outcome=observed.outcome,
            timings_ms=observed.timings_ms,
            plan=self._plan(observed),
        )

    def _plan(self, observed: SearchObserved) -> list[Any] | None:
        """The plan of the statement that the search ran, where it ran one that says where the time went."""
        explaining = ExplainingDatabase(self._rag.database)
        try:
            explain(explaining, observed, self._rag.settings.ef_search)
        except NotFound:
            return None  # deleted meanwhile
        except RagstoneError as error:
            log.warning("slow searches: no plan: %s", error)
        return explaining.plans[0] if explaining.plans else None


def explain(database: ExplainingDatabase, observed: SearchObserved, ef_search: int) -> None:
    """Have a search's own statement explained. There is none where the index that searched is not in the corpus."""
    if observed.embedding.size == 0:
        return  # it never came to a search
    filter = parse(observed.filter)
    if observed.exact or observed.asked_exactly:
        name = "exact" if filter is None else "exact_filtered"
        values: dict[str, Any] = {} if filter is None else {"filter": filter.jsonpath()}
        run(database, observed.collection, name, observed.embedding, {}, top_k=observed.top_k + 1, **values)
    elif observed.backend == PgvectorIndex.name:
        nobody = IndexIdentity(collection_id=observed.collection.id, system_identifier=0, timeline=0, index_id=0)
        index = PgvectorIndex(database, observed.collection, nobody, ef_search, statement_budget_ms=0)
        index.nearest(observed.embedding, observed.top_k, filter, observed.effort)
