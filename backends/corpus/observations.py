"""What the corpus remembers of searches: captured queries, the recall measured on them, the efforts that were tuned."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psycopg
from psycopg.types.json import Jsonb

from backends.corpus.collections import CollectionState
from backends.corpus.database import Connection, Database
from backends.corpus.queries import query
from backends.efforts import Band
from backends.types import Embeddings

MEASURING_LOCK_SPACE = 0x7263  # "rc": the first half of the lock of whoever measures recall
HUNDREDTHS = 101
"""Recalls are counted by hundredths, from 0 to 100."""
_CAPTURED = """q.id, q.collection_id, c.name, q.captured_at, q.backend, q.embedding, q.filter, q.top_k, q.effort, q.ids,
       q.scores, q.exact, q.sequence"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCapture:
    """A query to keep, as it was asked and answered. `embedding` is float32 [d], prepared; `filter` as it was given.

    `sequence` is a number of the collection's change sequence that was reached before the search began.
    """

    collection_id: int
    backend: str
    embedding: Embeddings
    filter: Mapping[str, Any] | None
    top_k: int
    effort: int | None
    ids: list[str]
    scores: list[float]
    exact: bool
    sequence: int
    search_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedQuery:
    """A query that was kept, and what answered it: ids and scores, best first. `effort` None: the default then."""

    id: int
    collection_id: int
    collection: str
    captured_at: datetime
    backend: str
    embedding: Embeddings
    filter: dict[str, Any] | None
    top_k: int
    effort: int | None
    ids: list[str]
    scores: list[float]
    exact: bool
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was found of a captured query; all None where it could not be measured, or nothing matches.

    `matching` is counted no further than its band needs. `short` says that there were fewer hits than there could be.
    """

    recall: float | None = None
    distance_ratio: float | None = None
    matching: int | None = None
    band: Band | None = None
    short: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRow:
    """A period of one backend and band. `recalls` counts the queries by recall, in hundredths from 0 to 100."""

    backend: str
    band: Band
    began_at: datetime
    span_s: int
    queries: int
    recalls: list[int]
    distance_ratio_sum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentRecalls:
    """The newest recalls of a collection's serving index in one band, oldest first, and what the searches took."""

    collection: str
    band: Band
    backend: str
    recall_target: float | None
    recalls: list[float]
    search_ms: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """An effort that tuning set, and how searches went before. `p99_limit_ms` None: too few were known for one."""

    collection_id: int
    backend: str
    band: Band
    effort: int
    previous: int | None
    target: float
    recall_before: float
    p99_limit_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedTuning:
    """A tuning that holds, and what searches with its effort showed since."""

    tuning: Tuning
    collection: str
    recalls: list[float]
    search_ms: list[float]


def capture(database: Database, captured: NewCapture) -> int | None:
    """Keep a query, and return its collection's number now; None where the collection is gone."""
    values = asdict(captured)
    values["embedding"] = np.ascontiguousarray(captured.embedding, dtype="<f4").tobytes()
    values["filter"] = None if captured.filter is None else Jsonb(dict(captured.filter))
    try:
        with database.connection() as connection:
            row = connection.execute(query("observations", "capture"), values).fetchone()
    except psycopg.errors.ForeignKeyViolation:
        return None  # deleted at this moment
    return None if row is None else int(row[0])


def prune_captured(database: Database, collection_id: int, kept: int) -> None:
    """Keep the newest queries of a collection, about so many."""
    with database.connection() as connection:
        connection.execute(query("observations", "prune_captured"), {"collection_id": collection_id, "kept": kept})


def forget_captured(database: Database, kept_s: float) -> None:
    """Forget the queries, of all collections, that are older."""
    with database.connection() as connection:
        connection.execute(query("observations", "forget_captured"), {"kept_s": kept_s})


def unmeasured(database: Database, limit: int) -> list[CapturedQuery]:
    """Return queries to measure: the newest of each collection first, then the second of each, and so on."""
    with database.connection() as connection:
        rows = connection.execute(query("observations", "unmeasured", columns=_CAPTURED), {"limit": limit}).fetchall()
    return [_captured(row) for row in rows]


def captured_queries(
    database: Database, collection_id: int, limit: int, band: Band | None = None
) -> list[CapturedQuery]:
    """Return the newest queries of a collection; with a band, those that were not found to be of another."""
    values = {"collection_id": collection_id, "limit": limit, "band": band}
    with database.connection() as connection:
        rows = connection.execute(query("observations", "captured", columns=_CAPTURED), values).fetchall()
    return [_captured(row) for row in rows]


def record_measured(database: Database, captured: CapturedQuery, found: Measured, at: datetime | None = None) -> None:
    """Write down what was found of a query, and add it to the history of the hour of `at`, by default its own."""
    with database.transaction() as connection:
        connection.execute(query("observations", "set_measured"), asdict(found) | {"id": captured.id})
        if found.recall is not None and found.band is not None:
            _add_to_history(connection, captured, found, at or captured.captured_at)


def thin_history(database: Database, hours_kept_s: float) -> None:
    """Add up the hours of days that are older into those days."""
    with database.connection() as connection:
        connection.execute(query("observations", "thin_history"), {"hours_kept_s": hours_kept_s})


def recall_history(database: Database, collection_id: int, since: datetime) -> list[HistoryRow]:
    """Return the periods of a collection that end after `since`, oldest first."""
    values = {"collection_id": collection_id, "since": since}
    with database.connection() as connection:
        rows = connection.execute(query("observations", "history"), values).fetchall()
    return [HistoryRow(**dict(zip(HistoryRow.__slots__, row, strict=True))) for row in rows]


def recent_recalls(database: Database, within_s: float, most: int) -> list[RecentRecalls]:
    """Return, by collection and band, what was measured of late on the index that serves, with the effort it has."""
    values = {"within_s": within_s, "most": most}
    with database.connection() as connection:
        rows = connection.execute(query("observations", "recent_recalls"), values).fetchall()
    return [RecentRecalls(**dict(zip(RecentRecalls.__slots__, row, strict=True))) for row in rows]


def set_effort(connection: Connection, collection_id: int, backend: str, band: Band, effort: int | None) -> int | None:
    """Set what searches of a band take, None for the default, and return what they took before."""
    values = {"collection_id": collection_id, "backend": backend, "band": band, "effort": effort}
    row = connection.execute(query("observations", "set_effort"), values).fetchone()
    return None if row is None else row[0]


def tune(
    database: Database,
    collection: CollectionState,
    band: Band,
    effort: int,
    *,
    target: float,
    recall_before: float,
    p99_limit_ms: float | None,
) -> Tuning:
    """Set an effort on the backend that serves, and remember what it was and how searches went."""
    with database.transaction() as connection:
        tuning = Tuning(
            collection_id=collection.id,
            backend=collection.backend,
            band=band,
            effort=effort,
            previous=set_effort(connection, collection.id, collection.backend, band, effort),
            target=target,
            recall_before=recall_before,
            p99_limit_ms=p99_limit_ms,
        )
        connection.execute(query("observations", "remember_tuning"), asdict(tuning))
    return tuning


def watched_tunings(database: Database, watched_s: float) -> list[WatchedTuning]:
    """Return the tunings of so many last seconds that still hold, with what was measured since."""
    with database.connection() as connection:
        rows = connection.execute(query("observations", "watched_tunings"), {"watched_s": watched_s}).fetchall()
    return [_watched(row) for row in rows]


def take_back(database: Database, tuning: Tuning) -> bool:
    """Set the effort to what it was before; False where another has done so, or has tuned anew."""
    values = {"collection_id": tuning.collection_id, "backend": tuning.backend, "band": tuning.band}
    with database.transaction() as connection:
        marked = connection.execute(query("observations", "mark_taken_back"), values | {"effort": tuning.effort})
        if not marked.rowcount:
            return False
        set_effort(connection, tuning.collection_id, tuning.backend, tuning.band, tuning.previous)
    return True


class MeasuringLock:
    """Held by the one process that measures."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def require(self) -> None:
        """Raise CorpusUnavailable where the connection that holds it is gone."""
        self._connection.execute("SELECT 1")


@contextmanager
def measuring_lock(database: Database) -> Iterator[MeasuringLock | None]:
    """Be the only one of all processes who measures; None where another is."""
    with database.dedicated() as connection:
        values = {"lock": MEASURING_LOCK_SPACE}
        held = connection.execute(query("observations", "measuring_lock"), values).fetchone() == (True,)
        yield MeasuringLock(connection) if held else None


def hundredth(recall: float) -> int:
    """Return where a recall is counted; only one that is whole is counted as whole."""
    return 100 if recall >= 1 else min(round(100 * recall), 99)


def _add_to_history(connection: Connection, captured: CapturedQuery, found: Measured, at: datetime) -> None:
    assert found.recall is not None
    counts = [0] * HUNDREDTHS
    counts[hundredth(found.recall)] = 1
    values = {
        "collection_id": captured.collection_id,
        "backend": captured.backend,
        "band": found.band,
        "at": at.astimezone(UTC),
        "recalls": counts,
        "distance_ratio": found.distance_ratio or 0.0,
    }
    connection.execute(query("observations", "add_to_history"), values)


def _captured(row: tuple[Any, ...]) -> CapturedQuery:
    values = dict(zip(CapturedQuery.__slots__, row, strict=True))
    values["embedding"] = np.frombuffer(values["embedding"], dtype="<f4").astype(np.float32)
    return CapturedQuery(**values)


def _watched(row: tuple[Any, ...]) -> WatchedTuning:
    collection_id, name, *rest, recalls, search_ms = row
    tuning = Tuning(**dict(zip(Tuning.__slots__, (collection_id, *rest), strict=True)))
    return WatchedTuning(tuning=tuning, collection=name, recalls=recalls or [], search_ms=search_ms or [])
