"""The PostgreSQL that the corpus is in: versions, connections, vacuum and what keeps it from its work."""

import re
from collections.abc import Iterable
from functools import partial

from backends.corpus import health_figures as figures
from backends.corpus.migrations import PGVECTOR_FLOOR
from ops.health.check import Check, CheckFunction, Fix, FixFunction, Level, Subject, level_above
from retrieval.library import Ragstone

MINOR_FLOORS = {15: 18, 16: 14, 17: 10, 18: 4}
"""By major version, the minor one of 14 May 2026, which closed eleven holes: https://www.postgresql.org/support/security/"""
PGVECTOR_NEWEST = (0, 8, 6)
"""The newest that was known when this was written, for people to read."""
CONNECTIONS_WARN = 0.8
CONNECTIONS_CRIT = 0.95
"""Shares of the connections allowed: beyond them a deployment that overlaps with the one before fails to connect."""
TRANSACTION_WARN_S = 3_600
TRANSACTION_CRIT_S = 86_400
"""A backup or a build may take an hour; what takes a day was forgotten."""
SLOT_WARN_BYTES = 1 << 30
SLOT_CRIT_BYTES = 16 << 30
AGE_WARN = 500_000_000
"""Vacuum begins to freeze at autovacuum_freeze_max_age, 200 million: at 500 it has not come through."""
AGE_CRIT = 1_600_000_000
"""vacuum_failsafe_age: PostgreSQL itself drops all other care then. It stops to write at about 2,140 million."""
DEAD_WARN = 0.2
DEAD_CRIT = 0.4
"""Autovacuum comes when 20 % of the rows and 50 more are dead; at twice that it is off, or cannot keep up."""
LEAST_DEAD = 500
LOOK_MS = 10_000
"""What a fix may take to find what is to be done."""


def postgresql_version(subject: Subject) -> Iterable[Check]:
    """Security releases."""
    server = figures.server_figures(subject.database, subject.left_ms)
    major, minor = divmod(server.version_number, 10_000)
    floor = MINOR_FLOORS.get(major, 0)
    yield subject.check(
        "postgresql_version",
        "ok" if minor >= floor else "warn",
        threshold=f"at least {major}.{floor}",
        detail=f"PostgreSQL {server.version}",
        hint=f"update to {major}.{floor} or later: it closes known holes, and needs no more than a restart",
    )


def pgvector_version(subject: Subject) -> Iterable[Check]:
    """Older ones can corrupt an index, and an update of the files alone changes nothing in the database."""
    server = figures.server_figures(subject.database, subject.left_ms)
    found, installed = _numbers(server.pgvector), _numbers(server.pgvector_installed or server.pgvector)
    level: Level = "crit" if found < PGVECTOR_FLOOR else "warn" if found < installed else "ok"
    hint = (
        "install a newer pgvector, then run ALTER EXTENSION vector UPDATE, and rebuild what older ones than 0.8.3 built"
    )
    if installed > found:
        hint = f"{server.pgvector_installed} is installed: run ALTER EXTENSION vector UPDATE, or --fix"
    yield subject.check(
        "pgvector_version",
        level,
        threshold=f"at least {_dotted(PGVECTOR_FLOOR)}, and the one that is installed",
        detail=f"pgvector {server.pgvector}; {_dotted(PGVECTOR_NEWEST)} is the newest that this Ragstone knows",
        hint=hint,
    )


def connections_used(subject: Subject) -> Iterable[Check]:
    """Of the server's, the database's and the user's limit, the one that is nearest."""
    found = figures.connection_figures(subject.database, subject.left_ms)
    nearest = max(found, key=lambda limit: limit.used / max(limit.allowed, 1))
    share = nearest.used / max(nearest.allowed, 1)
    yield subject.check(
        "connections_used",
        level_above(share, CONNECTIONS_WARN, CONNECTIONS_CRIT),
        value=share,
        unit="share",
        threshold=f"at most {CONNECTIONS_WARN:g}",
        detail=f"{nearest.used} of the {nearest.of}'s {nearest.allowed} connections are in use",
        hint=f"close what does not need them, lower pool_size, or raise the {nearest.of}'s limit",
    )


def vacuum_held_back(subject: Subject) -> Iterable[Check]:
    """What an old transaction could still see may not be removed: indexes grow, and searches find less."""
    found = figures.oldest_transaction(subject.database, subject.left_ms)
    age_s, who = found or (0.0, "no transaction is open")
    yield subject.check(
        "vacuum_held_back",
        level_above(age_s, TRANSACTION_WARN_S, TRANSACTION_CRIT_S),
        value=age_s,
        unit="s",
        threshold=f"at most {TRANSACTION_WARN_S:g} s",
        detail=who,
        hint="end it: SELECT pg_terminate_backend(process); against the next one, idle_in_transaction_session_timeout",
    )


def replication_slots(subject: Subject) -> Iterable[Check]:
    """A slot that nobody reads from keeps WAL until the disk is full."""
    found = figures.idle_slot(subject.database, subject.left_ms)
    slot, kept_bytes = found or ("no slot is idle", 0)
    yield subject.check(
        "replication_slots",
        level_above(kept_bytes, SLOT_WARN_BYTES, SLOT_CRIT_BYTES),
        value=kept_bytes,
        unit="bytes",
        threshold=f"at most {SLOT_WARN_BYTES >> 20} MiB of WAL kept for a slot that nobody reads from",
        detail=slot,
        hint=f"start its reader again, or drop it: SELECT pg_drop_replication_slot('{slot}')",
    )


def autovacuum_on(subject: Subject) -> Iterable[Check]:
    """Without it, dead rows stay, also in the indexes."""
    server = figures.server_figures(subject.database, subject.left_ms)
    off = [name for name in ("autovacuum", "track_counts") if not getattr(server, name)]
    left_alone = figures.unvacuumed_tables(subject.database, subject.left_ms)
    detail = ", ".join([*(f"{name} is off" for name in off), *(f"{table} is left alone" for table in left_alone)])
    yield subject.check(
        "autovacuum_on",
        "crit" if off else "warn" if left_alone else "ok",
        value=len(off) + len(left_alone),
        unit="settings",
        threshold="on, for every table",
        detail=detail or "it looks after every table",
        hint=f"set {' and '.join(off)} to on, and reload"
        if off
        else "ALTER TABLE ... RESET (autovacuum_enabled), or --fix",
    )


def transaction_age(subject: Subject) -> Iterable[Check]:
    """Transaction numbers run out where old rows are not frozen, and PostgreSQL refuses to write."""
    table, table_age, database_age = figures.oldest_table(subject.database, subject.left_ms)
    age = max(table_age, database_age)
    detail = f"table ragstone.{table}" if table_age >= database_age else "tables beside the corpus's own"
    yield subject.check(
        "transaction_age",
        level_above(age, AGE_WARN, AGE_CRIT),
        value=age,
        unit="transactions",
        threshold=f"at most {AGE_WARN:,}",
        detail=detail,
        hint="run VACUUM (FREEZE) in this database, or --fix, and see what keeps autovacuum from it",
    )


def dead_tuples(subject: Subject) -> Iterable[Check]:
    """Of a collection's two tables, the one with the greater share of dead rows."""
    found = figures.table_figures(subject.database, subject.state, subject.left_ms)
    shares = {table: table.dead / max(table.live + table.dead, 1) for table in found if table.dead >= LEAST_DEAD}
    worst = max(shares, key=lambda table: shares[table], default=None)
    share = 0.0 if worst is None else shares[worst]
    yield subject.check(
        "dead_tuples",
        level_above(share, DEAD_WARN, DEAD_CRIT),
        value=share,
        unit="share",
        threshold=f"at most {DEAD_WARN:g} of the rows",
        detail="hardly any" if worst is None else f"{worst.dead:,} dead and {worst.live:,} live rows in {worst.name}",
        hint="run VACUUM, or --fix; where they come back, see autovacuum_on and vacuum_held_back",
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _update_pgvector(rag: Ragstone, _: Check) -> Fix | None:
    server = figures.server_figures(rag.database, LOOK_MS)
    if (server.pgvector_installed or server.pgvector) == server.pgvector:
        return None
    description = f"ALTER EXTENSION vector UPDATE: from {server.pgvector} to {server.pgvector_installed}"
    return Fix(description=description, run=partial(figures.update_pgvector, rag.database))


def _reset_autovacuum(rag: Ragstone, _: Check) -> Fix | None:
    tables = figures.unvacuumed_tables(rag.database, LOOK_MS)
    if not tables:
        return None

    def reset() -> None:
        for table in tables:
            figures.reset_autovacuum(rag.database, table)

    return Fix(description=f"let autovacuum look after {', '.join(tables)} again", run=reset)


def _freeze(rag: Ragstone, _: Check) -> Fix | None:
    table, table_age, database_age = figures.oldest_table(rag.database, LOOK_MS)
    oldest = table if table_age >= database_age else None
    description = f"VACUUM (FREEZE) {'every table of the database' if oldest is None else f'ragstone.{oldest}'}"
    return Fix(description=description, run=partial(figures.freeze, rag.database, oldest))


CORPUS_CHECKS: tuple[CheckFunction, ...] = (
    postgresql_version,
    pgvector_version,
    connections_used,
    vacuum_held_back,
    replication_slots,
    autovacuum_on,
    transaction_age,
)
CHECKS: tuple[CheckFunction, ...] = (dead_tuples,)
FIXES: dict[str, FixFunction] = {
    "pgvector_version": _update_pgvector,
    "autovacuum_on": _reset_autovacuum,
    "transaction_age": _freeze,
}
