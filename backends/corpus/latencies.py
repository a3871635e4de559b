"""Latencies and slow searches as the corpus keeps them: minutes that become hours and days with age."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from psycopg.types.json import Jsonb

from backends.corpus.database import Connection, Database
from backends.corpus.queries import query

THINNING_LOCK = 0x6C61  # "la": the first half of the advisory lock
STATEMENT_LIMIT_MS = 5_000
FORGOTTEN_AT_ONCE = 10_000

MINUTE_S = 60
HOUR_S = 3_600
DAY_S = 86_400
YEAR_S = 365 * DAY_S
COARSER = ((MINUTE_S, HOUR_S, DAY_S), (HOUR_S, DAY_S, 30 * DAY_S))
"""Spans of so many seconds become spans of so many, once they are so old."""

SLOW_KEPT = 1_000
SLOW_KEPT_S = 30 * DAY_S

Thinned = Literal["some", "nothing", "another"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRow:
    """How long one stage took, counted: bucket numbers ascending, and how many latencies each of them holds."""

    collection: str
    backend: str
    stage: str
    outcome: str
    buckets: list[int]
    counts: list[int]
    sum_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowSearch:
    """A search that was slow. `plan` is what PostgreSQL said of it, None where it was not asked."""

    seen_at: datetime
    collection: str
    backend: str
    top_k: int
    filter: dict[str, Any] | None
    effort: int | None
    exact: bool
    outcome: str
    timings_ms: dict[str, float]
    plan: list[Any] | None


def add_latencies(database: Database, process: UUID, began_at: datetime, rows: Sequence[LatencyRow]) -> None:
    """Keep what one process counted in the minute that began then: all of it, or nothing."""
    spans = {"process": process, "began_at": began_at, "span_s": MINUTE_S}
    values = [asdict(row) | spans for row in rows]
    with database.transaction() as connection, connection.cursor() as cursor:
        cursor.executemany(query("latencies", "add"), values)


def latencies_since(database: Database, since: datetime, collection: str | None = None) -> list[LatencyRow]:
    """Return all processes' latencies from then on, added up; of one collection, or of all."""
    values = {"since": since, "collection": collection}
    with database.connection() as connection:
        rows = connection.execute(query("latencies", "since"), values).fetchall()
    return [LatencyRow(**dict(zip(LatencyRow.__slots__, row, strict=True))) for row in rows]


def thin_latencies(database: Database) -> Thinned:
    """Add up the oldest span of one collection that is due, or forget some of what is too old: one bounded step.

    Says whether there was such a step, or nothing left to do, or another process at it.
    """
    limit = {"statement_timeout": str(STATEMENT_LIMIT_MS)}
    with database.connection(limit) as connection, connection.transaction():
        lock = connection.execute(query("latencies", "try_thinning_lock"), {"lock": THINNING_LOCK}).fetchone()
        if lock != (True,):
            return "another"
        return "some" if _add_up_one(connection) or _forget_some(connection) else "nothing"


def add_slow_search(
    database: Database,
    collection_id: int,
    *,
    backend: str,
    top_k: int,
    filter: Mapping[str, Any] | None,
    effort: int | None,
    exact: bool,
    outcome: str,
    timings_ms: Mapping[str, float],
    plan: list[Any] | None,
) -> None:
    """Keep a slow search, and no more than SLOW_KEPT of them, none older than SLOW_KEPT_S."""
    values = {"collection_id": collection_id, "backend": backend, "top_k": top_k, "effort": effort, "exact": exact}
    values |= {"outcome": outcome, "timings_ms": Jsonb(dict(timings_ms))}
    values |= {"filter": _json(filter), "plan": _json(plan)}
    with database.transaction() as connection:
        connection.execute(query("latencies", "add_slow"), values)
        connection.execute(query("latencies", "forget_slow"), {"age_s": SLOW_KEPT_S, "kept": SLOW_KEPT})


def slow_searches_since(
    database: Database, since: datetime, collection: str | None = None, limit: int = 20
) -> list[SlowSearch]:
    """Return the slowest searches that were kept from then on, the slowest first."""
    values = {"since": since, "collection": collection, "limit": limit}
    with database.connection() as connection:
        rows = connection.execute(query("latencies", "slow_since"), values).fetchall()
    return [SlowSearch(**dict(zip(SlowSearch.__slots__, row, strict=True))) for row in rows]


def _add_up_one(connection: Connection) -> bool:
    for from_s, to_s, age_s in COARSER:
        values = {"from_s": from_s, "to_s": to_s, "age_s": age_s}
        due = connection.execute(query("latencies", "due"), values).fetchone()
        if due is not None:
            values |= {"began_at": due[0], "collection": due[1]}
            connection.execute(query("latencies", "add_up"), values)
            return True
    return False


def _forget_some(connection: Connection) -> bool:
    values = {"span_s": DAY_S, "age_s": YEAR_S, "limit": FORGOTTEN_AT_ONCE}
    return connection.execute(query("latencies", "forget"), values).rowcount > 0


def _json(value: Mapping[str, Any] | list[Any] | None) -> Jsonb | None:
    return None if value is None else Jsonb(dict(value) if isinstance(value, Mapping) else value)
