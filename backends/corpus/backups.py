"""What the corpus remembers of its backups: how each run ended, and who makes one now."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Literal

from backends.corpus.database import Database
from backends.corpus.queries import query
from backends.errors import Conflict

BACKUP_LOCK_SPACE = 0x6270  # "bp": the first half of the lock; a hash of the repository's address is the second


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupRun:
    """How a backup or a verification ended. `repository` is its address without credentials.

    `chunks` and `size_bytes` are what was written, or what was verified.
    """

    kind: Literal["create", "verify"]
    repository: str
    backup_id: str | None
    depth: str | None
    ok: bool
    problem: str | None
    chunks: int
    size_bytes: int
    duration_s: float
    finished_at: datetime = field(default_factory=lambda: datetime.now(UTC))


def record_run(database: Database, run: BackupRun) -> None:
    """Write down how a run ended."""
    with database.connection() as connection:
        connection.execute(query("backups", "record_run"), asdict(run))


def latest_runs(database: Database) -> list[BackupRun]:
    """Return of each kind and depth the last run that was well, and the last that was not, where there are such."""
    with database.connection() as connection:
        rows = connection.execute(query("backups", "latest_runs")).fetchall()
    return [BackupRun(**dict(zip(BackupRun.__slots__, row, strict=True))) for row in rows]


def known_backups(database: Database, backup_ids: Sequence[str]) -> set[str]:
    """Return those of the backups that this corpus remembers to have made."""
    with database.connection() as connection:
        rows = connection.execute(query("backups", "known_backups"), {"backup_ids": list(backup_ids)}).fetchall()
    return {row[0] for row in rows}


@contextmanager
def backup_lock(database: Database, repository: str) -> Iterator[None]:
    """Be the only one of this corpus who writes to a repository; raises Conflict where another does."""
    with database.dedicated() as connection:
        values = {"lock": BACKUP_LOCK_SPACE, "repository": repository}
        if connection.execute(query("backups", "backup_lock"), values).fetchone() != (True,):
            raise Conflict(f"another process makes a backup into {repository} now; try again when it is done")
        yield
