"""A thread that keeps one vector index in step with the corpus, and the corpus informed of how far it has come."""

import logging
import threading
import time
from collections.abc import Callable

from backends.attached import AttachedIndex
from backends.corpus.collections import CollectionState
from backends.corpus.database import Database
from backends.corpus.indexes import FollowLocks, IndexRow, find_index, record_applied, record_away
from backends.errors import IndexUnavailable, NotFound, RagstoneError

POLL_S = 0.5
"""How soon another process's writes are noticed; this one's own are noticed at once."""
CHECK_S = 10.0
"""How often an index that has nothing to apply is looked at all the same: it may have been lost."""
SAVE_EVERY_S = 30.0
RETRY_S = 2.0

log = logging.getLogger(__name__)


class _Stopped(Exception):  # not an error: the build under way ends with the process
    """The follower is to stop."""


class Follower:
    """Follows one index until it is stopped, or the index is not live any more.

    Whoever holds the index's follow lock applies for all who share it, and saves what has files. Without the lock,
    a shared index is only observed, and a copy of this process's own is brought up to date. `let_go` is called when
    the index is not live any more.
    """

    def __init__(
        self,
        database: Database,
        collection: CollectionState,
        locks: FollowLocks,
        attach: Callable[[], AttachedIndex],
        let_go: Callable[[], None],
    ) -> None:
        self.collection_id = collection.id
        self._database = database
        self._collection = collection
        self._locks = locks
        self._attach = attach
        self._let_go = let_go
        self._attached: AttachedIndex | None = None
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._checked_s = float("-inf")
        self._saved_s = time.monotonic()
        self._building = False
        name = f"ragstone-follow-{collection.backend}-{collection.index_id}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def alive(self) -> bool:
        """Whether it goes on."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def wake(self) -> None:
        """Look at once: there is something new."""
        self._wake.set()

    def stop(self) -> None:
        """Return when the thread has ended, and what this process keeps is saved."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            pause_s = POLL_S
            try:
                row = self._row()
                if row is None:
                    break
                self._step(row)
            except (NotFound, _Stopped):
                break  # deleted meanwhile, or stopped in the middle of a build
            except Exception as error:  # a follower that dies leaves its index behind for ever
                self._went_wrong(error)
                pause_s = RETRY_S
            self._wake.wait(pause_s)
            self._wake.clear()
        stopped = self._stopping.is_set()
        self._end()
        if not stopped:
            self._let_go()

    def _row(self) -> IndexRow | None:
        row = find_index(self._database, self._collection.index_id)
        return row if row is not None and row.state == "live" else None

    def _step(self, row: IndexRow) -> None:
        keeps = self._locks.try_hold(row.id)
        if self._attached is None:
            if not keeps and not row.serving:
                return  # an index that only its keeper needs
            self._attached = self._attach()
        if keeps:
            self._keep(row, self._attached)
        else:
            self._observe(row, self._attached)

    def _keep(self, row: IndexRow, attached: AttachedIndex) -> None:
        """Apply what is new, for everybody, and write down how far that came."""
        due = time.monotonic() - self._checked_s >= CHECK_S
        if row.applied == row.sequence and row.away_since is None and not due:
            self._save_when_due(row, attached)
            return
        self._checked_s = time.monotonic()
        self._building = False
        try:
            applied = attached.follow(may_build=True, watch=lambda number: self._applied(row, number))
        except IndexUnavailable as error:
            attached.set_aside(str(error))
            record_away(self._database, row.id, str(error))
            return
        attached.take_back()
        self._record(row, attached, applied)

    def _observe(self, row: IndexRow, attached: AttachedIndex) -> None:
        """Follow what another process keeps."""
        if row.away_since is not None:
            attached.set_aside(row.away_reason or "the process that keeps it cannot reach it")
        elif attached.index.capabilities.shared:
            if row.applied is not None:
                attached.index.observe(row.applied)
            attached.look_again()  # where nobody searches, nobody else would
        else:
            self._copy(attached)

    def _copy(self, attached: AttachedIndex) -> None:
        try:
            attached.follow(may_build=False)
        except IndexUnavailable as error:
            attached.set_aside(str(error))
        else:
            attached.take_back()

    def _applied(self, row: IndexRow, number: int | None) -> None:
        """A long way is written down step by step, since writers wait for it; a build is nothing to wait for."""
        if number is None:
            if self._stopping.is_set():
                raise _Stopped
            if not self._building:
                self._building = True
                record_away(self._database, row.id, "it is being built anew")
        elif row.away_since is None:
            record_applied(self._database, row.id, number, row.durable if row.durable is not None else number)

    def _record(self, row: IndexRow, attached: AttachedIndex, applied: int) -> None:
        durable = row.durable
        if not attached.index.capabilities.snapshots:
            durable = applied
        elif durable is None or durable > applied or row.away_since is not None:
            durable = attached.save()
        if (applied, durable) != (row.applied, row.durable) or row.away_since is not None:
            record_applied(self._database, row.id, applied, durable)

    def _save_when_due(self, row: IndexRow, attached: AttachedIndex) -> None:
        unsaved = attached.index.capabilities.snapshots and row.applied is not None and row.durable != row.applied
        if unsaved and (self._stopping.is_set() or time.monotonic() - self._saved_s >= SAVE_EVERY_S):
            self._saved_s = time.monotonic()
            durable = attached.save()
            record_applied(self._database, row.id, durable, durable)

    def _went_wrong(self, error: Exception) -> None:
        known = isinstance(error, RagstoneError)
        log.warning(
            "the %s index of %s cannot be followed now: %s",
            self._collection.backend,
            self._collection.name,
            error,
            exc_info=None if known else error,
        )

    def _end(self) -> None:
        """Save what is ours, and let another process keep the index."""
        try:
            row = self._row()
            if row is not None and self._attached is not None and self._locks.holds(row.id):
                self._stopping.set()
                self._save_when_due(row, self._attached)
            self._locks.release(self._collection.index_id)
        except Exception as error:  # the next process goes on from the snapshot before
            self._went_wrong(error)
