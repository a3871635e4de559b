"""Moves between backends as the corpus keeps them: any process can see how far one is, and go on with it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import psycopg
from psycopg.types.json import Jsonb

from backends.corpus.collections import CollectionState
from backends.corpus.database import Connection, Database
from backends.corpus.indexes import flip
from backends.corpus.queries import query
from backends.errors import Conflict

Phase = Literal["building", "catching_up", "verifying", "done", "failed", "cancelled", "rolled_back"]
ACTIVE: tuple[Phase, ...] = ("building", "catching_up", "verifying")

MOVE_LOCK_SPACE = 0x6D76  # "mv": the first half of a mover's advisory lock; the move's id is the second


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One move. `chunks_done` of `chunks_total` counts the build; `tries`, how many processes have worked on it."""

    id: int
    collection_id: int
    collection: str
    source: str
    target: str
    by_hand: bool
    target_index_id: int | None
    phase: Phase
    chunks_done: int
    chunks_total: int
    tries: int
    cancel_wanted: bool
    problem: str | None
    verification: dict[str, Any] | None
    build_s: float | None
    started_at: datetime
    updated_at: datetime
    finished_at: datetime | None

    @property
    def active(self) -> bool:
        """Whether it is still to go on."""
        return self.phase in ACTIVE


def begin_move(database: Database, collection: CollectionState, target: str, *, by_hand: bool) -> Move:
    """Write down that a collection is to move; raises Conflict while another move of it goes on."""
    values = {"collection_id": collection.id, "source": collection.backend, "target": target, "by_hand": by_hand}
    try:
        with database.connection() as connection:
            row = connection.execute(query("moves", "begin_move"), values).fetchone()
    except psycopg.errors.UniqueViolation as error:
        raise Conflict(
            f"collection {collection.name!r} is being moved already: see `ragstone move status {collection.name}`"
        ) from error
    assert row is not None
    return find_move(database, row[0])


def find_move(database: Database, move_id: int) -> Move:
    """Return one move; raises Conflict where it went with its collection."""
    with database.connection() as connection:
        row = connection.execute(query("moves", "find_move"), {"move_id": move_id}).fetchone()
    if row is None:
        raise Conflict("the collection was deleted while it was being moved")
    return _move(row)


def latest_moves(database: Database, collection_id: int | None = None) -> list[Move]:
    """Return the last move of each collection, or of one, in the order of their names."""
    with database.connection() as connection:
        rows = connection.execute(query("moves", "latest_moves"), {"collection_id": collection_id}).fetchall()
    return [_move(row) for row in rows]


def count_try(database: Database, move: Move) -> None:
    """Count one more process that works on the move."""
    _execute(database, "try_move", move_id=move.id)


def record_progress(
    database: Database, move: Move, phase: Phase, done: int, total: int, index_id: int, build_s: float | None = None
) -> bool:
    """Write down how far a move is; False where it is to stop: cancelled, or ended by somebody else."""
    values = {"move_id": move.id, "phase": phase, "done": done, "total": total, "index_id": index_id}
    with database.connection() as connection:
        row = connection.execute(query("moves", "progress_move"), values | {"build_s": build_s}).fetchone()
    return row is not None and not row[0]


def note_problem(database: Database, move: Move, problem: str) -> None:
    """Write down what the last try met; the move goes on."""
    _execute(database, "note_move", move_id=move.id, problem=problem)


def finish_move(database: Database, move: Move, index_id: int, verification: dict[str, Any]) -> None:
    """Change over, and write down that the move is done, in one transaction.

    Raises Conflict where the move or its index is not there any more; nothing is changed over then.
    """
    with database.transaction() as connection:
        _end(connection, move, "done", verification=verification)
        flip(connection, move.collection_id, index_id)
        if move.by_hand:
            connection.execute(query("moves", "pin"), {"collection_id": move.collection_id, "backend": move.target})


def end_move(
    database: Database, move: Move, phase: Phase, problem: str | None, verification: dict[str, Any] | None = None
) -> None:
    """Write down that a move failed or was cancelled; raises Conflict where it had ended already."""
    with database.transaction() as connection:
        _end(connection, move, phase, problem, verification)


def want_cancelled(database: Database, collection: CollectionState) -> bool:
    """Ask whoever works on the collection's move to stop; False where there is none."""
    with database.connection() as connection:
        values = {"collection_id": collection.id}
        return connection.execute(query("moves", "cancel_move"), values).fetchone() is not None


def roll_back(database: Database, collection: CollectionState, index_id: int, backend: str) -> None:
    """Let the index before serve again, and keep the collection there; raises Conflict where it is not live."""
    values = {"collection_id": collection.id, "backend": backend}
    with database.transaction() as connection:
        flip(connection, collection.id, index_id)
        connection.execute(query("moves", "mark_rolled_back"), values)
        connection.execute(query("moves", "pin"), values)


def pin(database: Database, collection: CollectionState, backend: str | None) -> None:
    """Keep a collection on a backend, whatever its size; None lets size decide again."""
    _execute(database, "pin", collection_id=collection.id, backend=backend)


def measured_rate(database: Database, target: str) -> tuple[float, int] | None:
    """Return the chunks a second of the last build into a backend, and their dimension; None where there was none."""
    with database.connection() as connection:
        row = connection.execute(query("moves", "measured_rate"), {"target": target}).fetchone()
    return None if row is None else (float(row[0]), int(row[1]))


def lock_move(connection: Connection, move: Move) -> bool:
    """Take the move for this process, until the connection ends; False where another works on it."""
    values = {"lock": MOVE_LOCK_SPACE, "move_id": move.id}
    row = connection.execute(query("moves", "move_lock"), values).fetchone()
    assert row is not None
    return bool(row[0])


def is_worked_on(database: Database, move: Move) -> bool:
    """Return whether some process works on the move now."""
    with database.connection() as connection:
        values = {"lock": MOVE_LOCK_SPACE, "move_id": move.id}
        row = connection.execute(query("moves", "move_worked_on"), values).fetchone()
    return row == (True,)


def _end(
    connection: Connection,
    move: Move,
    phase: Phase,
    problem: str | None = None,
    verification: dict[str, Any] | None = None,
) -> None:
    values = {"move_id": move.id, "phase": phase, "problem": problem}
    found = None if verification is None else Jsonb(verification)
    if connection.execute(query("moves", "end_move"), values | {"verification": found}).fetchone() is None:
        raise Conflict(f"the move of {move.collection!r} has ended already")


def _execute(database: Database, name: str, **values: object) -> None:
    with database.connection() as connection:
        connection.execute(query("moves", name), values)


def _move(row: tuple[Any, ...]) -> Move:
    return Move(**dict(zip(Move.__slots__, row, strict=True)))
