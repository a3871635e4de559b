"""A vector index as this process has it: kept in step by one thread at a time, set aside while it is away."""

import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from backends.base import VectorIndex
from backends.corpus.collections import CollectionState
from backends.corpus.database import Database
from backends.corpus.following import Watch, bring_up_to_date
from backends.corpus.indexes import find_index
from backends.errors import IndexUnavailable
from backends.filters import Filter
from backends.types import Candidates, Embeddings, Ids

RETRY_S = 1.0
"""While an index is away, one search in this time asks whether it is back; the others do not wait for it."""
LONGEST_RETRY_S = 30.0
RELAPSE_S = 60.0
"""An index that is away again so soon is asked half as often each time: its marker answers, its searches do not."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Away:
    """Since when an index could not be used, and why."""

    reason: str
    retry_s: float
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    asked_s: float = field(default_factory=time.monotonic)

    @property
    def due(self) -> bool:
        """Whether it is time to ask again."""
        return time.monotonic() - self.asked_s >= self.retry_s


class AttachedIndex:
    """One index of one collection. Safe to use from any thread."""

    def __init__(self, database: Database, collection: CollectionState, index: VectorIndex) -> None:
        self.collection = collection
        self.index = index
        self._database = database
        self._applying = threading.Lock()
        self._asking = threading.Lock()
        self._away: Away | None = None
        self._back_s = float("-inf")
        self._retry_s = RETRY_S

    @property
    def name(self) -> str:
        """The backend's name."""
        return self.index.name

    @property
    def away(self) -> Away | None:
        """Since when and why the index cannot be used here; None where it can."""
        return self._away

    def search(
        self, queries: Embeddings, candidates: int, filter: Filter | None, effort: int | None, allowed: Ids | None
    ) -> Candidates:
        """Ask the index; IndexUnavailable, without a wait, while it is away."""
        self._require_back()
        try:
            return self.index.search(queries, candidates, filter, effort, allowed)
        except IndexUnavailable as error:
            self.set_aside(str(error))
            raise

    def follow(self, *, may_build: bool, watch: Watch = lambda _: None) -> int:
        """Let the index apply what it lacks, and return the number it has then applied: `bring_up_to_date`.

        For whoever holds the follow lock, who alone may build; a copy of its own any process brings up to date.
        """
        with self._applying:
            return bring_up_to_date(self._database, self.collection, self.index, may_build=may_build, watch=watch)

    def save(self) -> int:
        """Make what is applied durable, and return the number that a restart goes on from."""
        with self._applying:
            return self.index.save()

    def catch_up(self) -> None:
        """Get to where the corpus still remembers what came later: a search found the index behind that."""
        row = find_index(self._database, self.index.identity.index_id)
        if self.index.capabilities.shared and row is not None and row.applied is not None:
            self.index.observe(row.applied)
        else:
            self.follow(may_build=row is None or row.applied is None)  # nobody keeps it

    def set_aside(self, reason: str) -> None:
        """Take the index for away, from now on."""
        if self._away is None:
            log.warning("the %s index of %s is away: %s", self.name, self.collection.name, reason)
            relapsed = time.monotonic() - self._back_s < RELAPSE_S
            self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S) if relapsed else RETRY_S
            self._away = Away(reason, self._retry_s)

    def take_back(self) -> None:
        """Take the index for usable again; one that was back a moment ago stays away a while."""
        away = self._away
        if away is not None and (away.retry_s <= RETRY_S or away.due):
            self._away = None
            self._back_s = time.monotonic()
            away_s = (datetime.now(UTC) - away.since).total_seconds()
            log.warning("the %s index of %s is back after %.1f s", self.name, self.collection.name, away_s)

    def look_again(self) -> None:
        """Ask whether an index that is away is back, unless that was asked a moment ago."""
        with suppress(IndexUnavailable):
            self._require_back()

    def close(self) -> None:
        """Give the index back, at any moment. Calling it again does nothing."""
        self.index.close()

    def _require_back(self) -> None:
        away = self._away
        if away is None:
            return
        if not away.due or not self._asking.acquire(blocking=False):
            raise _is_away(self, away)
        try:
            if not self._is_back():
                away.asked_s = time.monotonic()
                raise _is_away(self, away)
            self.take_back()
        finally:
            self._asking.release()

    def _is_back(self) -> bool:
        """Whether it is whole, ours, and not known to be far behind."""
        row = find_index(self._database, self.index.identity.index_id)
        if row is None or row.state != "live" or row.away_since is not None:
            return False
        try:
            stats = self.index.stats()
        except IndexUnavailable:
            return False
        if stats.ready and self.index.capabilities.shared:
            self.index.observe(stats.applied)
        return stats.ready


def _is_away(attached: AttachedIndex, away: Away) -> IndexUnavailable:
    since = away.since.isoformat(timespec="seconds")
    return IndexUnavailable(
        f"the {attached.name} index of {attached.collection.name!r} is away since {since}: {away.reason}"
    )
