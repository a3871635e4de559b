"""Builds the vector index of a collection in the background, once its load has come to rest."""

import logging
import threading
import time
from dataclasses import dataclass, field

from backends.corpus.collections import find_collection
from backends.corpus.database import Database
from backends.errors import IndexBehind, NotFound
from backends.pgvector import PgvectorIndex
from retrieval.config import Settings
from retrieval.placement import builds_hnsw

QUIET_S = 1.5
PATIENCE_S = 30.0
RETRY_S = 10.0
CANCEL_EVERY_S = 0.2

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Wanted:
    """An index that may have to be built: after a quiet moment, or when patience ends."""

    name: str
    index: PgvectorIndex
    first_s: float = field(default_factory=time.monotonic)
    due_s: float = 0.0


class IndexKeeper:
    """One thread that builds what `notice` and `wait` ask for. Other processes may do the same: one of them wins."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._wanted: dict[str, _Wanted] = {}
        self._changed = threading.Condition()
        self._resting_s: dict[str, float] = {}  # until when a failed build is left alone
        self._closing = False
        self._building: PgvectorIndex | None = None
        self._thread: threading.Thread | None = None

    def notice(self, name: str, index: PgvectorIndex, quiet_s: float = QUIET_S) -> None:
        """A collection was written to or opened: look at it when it has been quiet for `quiet_s`."""
        if index.ready:
            return
        with self._changed:
            wanted = self._wanted.setdefault(name, _Wanted(name, index))
            wanted.index = index
            due_s = min(time.monotonic() + quiet_s, wanted.first_s + PATIENCE_S)
            wanted.due_s = max(due_s, self._resting_s.get(name, 0.0))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ragstone-index-keeper", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def remind(self, name: str, index: PgvectorIndex) -> None:
        """A search had to do without the index: look again, unless that is going to happen anyway."""
        with self._changed:
            known = name in self._wanted or self._building is index
        if not known:
            self.notice(name, index)

    def wait(self, name: str, index: PgvectorIndex, timeout_s: float) -> None:
        """Return when the collection has its index, or is too small for one; IndexBehind after `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        while not index.ready and self._needs_index(name):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise IndexBehind(f"the vector index of {name!r} was not built within {timeout_s:g} s; it goes on")
            if self._building is not index:
                self.notice(name, index, quiet_s=0)
            with self._changed:
                self._changed.wait(min(left_s, 0.25))

    def close(self) -> None:
        """Stop, and cancel a build that is under way: the next process to open the collection starts it anew."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is None:
            return
        while self._thread.is_alive():
            building = self._building
            if building is not None:
                building.cancel_build()  # again and again: a build is many statements
            self._thread.join(CANCEL_EVERY_S)

    def _run(self) -> None:
        while (wanted := self._next()) is not None:
            try:
                if self._needs_index(wanted.name) and not wanted.index.build_missing():
                    self._try_later(wanted, "another process builds it, or it was cancelled")
            except NotFound:
                pass  # deleted meanwhile
            except Exception as error:  # a keeper that dies leaves every later index unbuilt
                self._try_later(wanted, error)
            finally:
                with self._changed:
                    self._building = None
                    self._changed.notify_all()

    def _next(self) -> _Wanted | None:
        with self._changed:
            while not self._closing:
                soonest = min(self._wanted.values(), key=lambda wanted: wanted.due_s, default=None)
                now = time.monotonic()
                if soonest is not None and soonest.due_s <= now:
                    self._building = soonest.index
                    return self._wanted.pop(soonest.name)
                self._changed.wait(None if soonest is None else soonest.due_s - now)
            return None

    def _needs_index(self, name: str) -> bool:
        state = find_collection(self._database, name)
        return builds_hnsw(state, self._settings)

    def _try_later(self, wanted: _Wanted, reason: object) -> None:
        with self._changed:
            if self._closing:
                return
            level = logging.WARNING if isinstance(reason, Exception) else logging.INFO
            log.log(level, "the index of %s is not built yet, next try in %.0f s: %s", wanted.name, RETRY_S, reason)
            self._resting_s[wanted.name] = wanted.due_s = time.monotonic() + RETRY_S
            self._wanted.setdefault(wanted.name, wanted)
