"""The vector indexes that this process has open: each opened once, followed by a thread of its own, closed together."""

import logging
import threading
import time
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from backends.attached import AttachedIndex
from backends.corpus.collections import CollectionState, find_collection, identity
from backends.corpus.database import Database
from backends.corpus.indexes import FollowLocks, IndexRow, all_indexes, find_index, indexes_of
from backends.errors import IndexBehind, IndexUnavailable, InvalidSettings, RagstoneError, Unsupported
from backends.pgvector import PgvectorIndex
from retrieval.config import Settings
from retrieval.follower import Follower
from retrieval.placement import open_index

REOPEN_S = 5.0
LOOK_S = 0.05
LET_GO_S = 120.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AwayIndex:
    """A serving index that cannot be used, since when, and why."""

    collection: str
    backend: str
    since: datetime
    reason: str


class OpenIndexes:
    """Every index that this process searches or follows. Safe to use from any thread."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._locks = FollowLocks(database)
        self._opening = threading.RLock()
        self._attached: dict[int, AttachedIndex] = {}
        self._followers: dict[int, Follower] = {}
        self._let_gone: list[tuple[float, AttachedIndex]] = []  # since when; a search may still be under way
        self._begun_s: dict[int, float] = {}  # when the opening of an index in the background began
        self._closed = False

    def attach(self, collection: CollectionState) -> AttachedIndex:
        """Return the index that serves a collection: open, followed and, where it is a copy, up to date if it can be.

        Raises what `open_index` raises.
        """
        with self._opening:
            attached = self._open(collection)
            self.follow_all(collection)
            return attached

    def attached_soon(self, collection: CollectionState) -> AttachedIndex | None:
        """Return the index that serves a collection where it is open here; else open it in the background."""
        attached = self._attached.get(collection.index_id)
        now_s = time.monotonic()
        if attached is None and now_s - self._begun_s.get(collection.index_id, float("-inf")) > REOPEN_S:
            self._begun_s[collection.index_id] = now_s
            name = f"ragstone-open-{collection.index_id}"
            threading.Thread(target=self._attach_quietly, args=(collection,), name=name, daemon=True).start()
        return attached

    def open_here(self, index_id: int) -> AttachedIndex | None:
        """Return an index that this process searches or follows; None where it does neither."""
        return self._attached.get(index_id)

    def follow_all(self, collection: CollectionState) -> None:
        """Follow every live index of a collection: the one that serves, and those kept for a rollback."""
        with self._opening:
            if self._closed:
                return
            for row in indexes_of(self._database, collection.id):
                follower = self._followers.get(row.id)
                if row.state != "live" or row.backend == PgvectorIndex.name or (follower and follower.alive):
                    continue
                state = replace(collection, backend=row.backend, index_id=row.id)
                follower = Follower(
                    self._database, state, self._locks, partial(self._open, state), partial(self._let_go, state)
                )
                self._followers[row.id] = follower
                follower.start()

    def notice(self, collection: CollectionState) -> None:
        """Wake whoever follows here: the collection was written to."""
        for follower in list(self._followers.values()):
            if follower.collection_id == collection.id:
                follower.wake()

    def wait(self, collection: CollectionState, timeout_s: float) -> None:
        """Return when the serving index has applied what is there now; raises IndexBehind after `timeout_s`."""
        wanted = find_collection(self._database, collection.name).sequence
        deadline_s = time.monotonic() + timeout_s
        while self._applied(collection) < wanted:
            if time.monotonic() > deadline_s:
                raise IndexBehind(
                    f"the {collection.backend} index of {collection.name!r} has not caught up within {timeout_s:g} s; "
                    "it goes on"
                )
            self.notice(collection)
            time.sleep(LOOK_S)

    def away(self) -> list[AwayIndex]:
        """Return the serving indexes that cannot be used now, as whoever keeps them sees it or as seen from here."""
        found = []
        for name, row in all_indexes(self._database):
            attached = self._attached.get(row.id)
            here = None if attached is None else attached.away
            if name.startswith("."):  # it is being restored, or was replaced: nobody searches it
                continue
            if row.serving and row.away_since is not None:
                found.append(AwayIndex(name, row.backend, row.away_since, row.away_reason or ""))
            elif row.serving and here is not None:
                found.append(AwayIndex(name, row.backend, here.since, here.reason))
        return found

    def remove_all(self, collection: CollectionState) -> None:
        """Remove a collection's indexes from where they live outside the corpus; what cannot be reached stays there."""
        for row in indexes_of(self._database, collection.id):
            if row.backend != PgvectorIndex.name:
                self._remove(replace(collection, backend=row.backend, index_id=row.id), row)

    def close(self) -> None:
        """Stop following, save what is ours to save, and give every index back."""
        with self._opening:
            self._closed = True
            followers, self._followers = list(self._followers.values()), {}
        for follower in followers:
            follower.stop()
        with self._opening:
            attached = [*self._attached.values(), *(one for _, one in self._let_gone)]
            self._attached, self._let_gone = {}, []
        for one in attached:
            one.close()
        self._locks.close()

    def _open(self, collection: CollectionState) -> AttachedIndex:
        with self._opening:
            attached = self._attached.get(collection.index_id)
            if attached is None:
                index = open_index(self._database, collection, self._settings)
                attached = AttachedIndex(self._database, collection, index)
                self._bring_up(attached)
                self._attached[collection.index_id] = attached
            return attached

    def _remove(self, collection: CollectionState, row: IndexRow) -> None:
        with self._opening:
            follower, attached = self._followers.pop(row.id, None), self._attached.pop(row.id, None)
        if follower is not None:
            follower.stop()
        try:
            index = open_index(self._database, collection, self._settings) if attached is None else attached.index
            try:
                index.drop()
            finally:
                index.close()
        except (IndexUnavailable, InvalidSettings, Unsupported) as error:
            name = identity(self._database, collection).name
            log.warning("%s stays behind in %s: %s", name, row.backend, error)

    def _let_go(self, collection: CollectionState) -> None:
        """Forget an index that nobody is sent to any more, and close those that were forgotten long ago."""
        now_s = time.monotonic()
        with self._opening:
            self._followers.pop(collection.index_id, None)
            attached = self._attached.pop(collection.index_id, None)
            old = [one for since_s, one in self._let_gone if now_s - since_s >= LET_GO_S]
            self._let_gone = [pair for pair in self._let_gone if now_s - pair[0] < LET_GO_S]
            if attached is not None:
                self._let_gone.append((now_s, attached))
        for one in old:
            one.close()

    def _bring_up(self, attached: AttachedIndex) -> None:
        """A copy is of no use before it has what is there; a shared index is there already."""
        if attached.index.capabilities.in_corpus or attached.index.capabilities.shared:
            return
        try:
            attached.follow(may_build=False)  # who keeps it builds it, beside the searches
        except IndexUnavailable as error:
            attached.set_aside(str(error))

    def _applied(self, collection: CollectionState) -> int:
        row = find_index(self._database, collection.index_id)
        if row is None:
            raise IndexUnavailable(f"the {collection.backend} index of {collection.name!r} was dropped; open it again")
        return -1 if row.applied is None or row.away_since is not None else row.applied

    def _attach_quietly(self, collection: CollectionState) -> None:
        try:
            self.attach(collection)
        except RagstoneError as error:
            log.warning("the %s index of %s is not used yet: %s", collection.backend, collection.name, error)
        except Exception:
            log.exception("opening the %s index of %s", collection.backend, collection.name)
