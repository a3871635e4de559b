"""Moves between backends that do not come to their end, and what they leave behind."""

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial

from backends.corpus import moves
from backends.corpus.collections import find_collection
from backends.corpus.health_indexes import is_followed
from backends.corpus.indexes import IndexRow, indexes_of, set_state
from backends.corpus.moves import Move
from backends.errors import NotFound
from ops.health.check import Check, CheckFunction, Fix, FixFunction, Level, Subject
from ops.moving import drop_old, work_on
from ops.moving.dropping import longest_query_s
from ops.moving.mover import MAX_TRIES
from retrieval.library import Ragstone

IDLE_S = 300.0
"""`ragstone serve` goes on with a move that nobody works on within seconds."""
QUIET_S = 3_600.0
"""A move says twice a second how far it is, but for while FAISS trains."""
MANY_TRIES = 5
GRACE_S = 3_600.0
"""Old indexes go whenever a service looks; by then one should have."""


def move(subject: Subject) -> Iterator[Check]:
    """Whether the collection's last move failed, stands still, or begins again and again."""
    latest = next(iter(moves.latest_moves(subject.database, subject.state.id)), None)
    if latest is None:
        return
    level, detail, hint = _of_move(subject, latest)
    yield Check(
        name="move",
        level=level,
        collection=subject.state.name,
        backend=latest.target,
        value=float(latest.tries),
        unit="tries",
        threshold=f"at most {MANY_TRIES}, and none that failed",
        detail=detail,
        hint=hint,
    )


def _of_move(subject: Subject, latest: Move) -> tuple[Level, str, str]:
    name, quiet_s = latest.collection, (datetime.now(UTC) - latest.updated_at).total_seconds()
    if latest.phase == "failed":
        return "warn", latest.problem or "", f"mend that, then `ragstone move start {name} --to {latest.target}`"
    if not latest.active:
        return "ok", latest.phase, ""
    worked_on = moves.is_worked_on(subject.database, latest)
    if quiet_s > (QUIET_S if worked_on else IDLE_S):
        who = "whoever works on it says nothing" if worked_on else "nobody works on it"
        hint = f"`ragstone move start {name}` goes on with it, `ragstone move cancel {name}` ends it"
        return "crit", f"{latest.phase}: {who} for {quiet_s:,.0f} s", hint
    if latest.tries > MANY_TRIES:
        hint = f"mend that; after {MAX_TRIES} tries it is given up. `ragstone move cancel {name}` ends it"
        return "warn", f"{latest.phase}, try {latest.tries}: {latest.problem or 'each was killed'}", hint
    return "ok", f"{latest.phase}: {latest.chunks_done:,} of {latest.chunks_total:,} chunks", ""


def old_index(subject: Subject) -> Iterator[Check]:
    """How long an index that does not serve is kept beyond old_index_kept_s: it costs, and holds up writes."""
    kept_s = subject.rag.settings.old_index_kept_s
    old = [row for row in subject.rows if row.state == "live" and not row.serving]
    hint = "`ragstone serve` drops it, or `ragstone health --fix`"
    yield from _overdue(subject, "old_index", old, kept_s, "kept for a rollback", hint)


def index_dropping(subject: Subject) -> Iterator[Check]:
    """How long an index that is to go does not: its store cannot be reached, or nobody looks."""
    going = [row for row in subject.rows if row.state == "dropping"]
    hint = "bring the store back, and run `ragstone serve` or `ragstone health --fix`"
    yield from _overdue(subject, "index_dropping", going, longest_query_s(subject.rag), "to be dropped", hint)


def index_unfinished(subject: Subject) -> Iterator[Check]:
    """How long an index is half built that no move builds any more: for its sake changes are kept."""
    latest = next(iter(moves.latest_moves(subject.database, subject.state.id)), None)
    building = [row for row in subject.rows if row.state == "building" and not (latest and latest.active)]
    left = [row for row in building if not is_followed(subject.database, row.id)]
    hint = "`ragstone health --fix` drops it"
    yield from _overdue(subject, "index_unfinished", left, 0.0, "half built", hint)


def _overdue(
    subject: Subject, name: str, rows: list[IndexRow], after_s: float, what: str, hint: str
) -> Iterator[Check]:
    """Give the check of the row that has been as it is for longest; its value is the time beyond `after_s`."""
    row = min(rows, key=lambda row: row.changed_at, default=None)
    over_s = 0.0 if row is None else max((datetime.now(UTC) - row.changed_at).total_seconds() - after_s, 0.0)
    late = row is not None and over_s > GRACE_S
    yield Check(
        name=name,
        level="warn" if late else "ok",
        collection=subject.state.name,
        backend=None if row is None else row.backend,
        value=round(over_s, 1),
        unit="s",
        threshold=f"at most {GRACE_S:g} s too long",
        detail="" if row is None else f"{what} since {row.changed_at.isoformat(timespec='seconds')}",
        hint=hint if late else "",
    )


def go_on(rag: Ragstone, check: Check) -> Fix | None:
    """Go on with a move that nobody works on."""
    latest = _latest(rag, check)
    if latest is None or not latest.active or moves.is_worked_on(rag.database, latest):
        return None
    description = f"go on with the move of {latest.collection} to {latest.target}"
    return Fix(description=description, run=lambda: _worked_on(rag, latest))


def _worked_on(rag: Ragstone, latest: Move) -> None:
    work_on(rag, latest)


def drop(rag: Ragstone, check: Check) -> Fix | None:
    """Drop the indexes that are kept for too long, in the two steps of any drop."""
    name, kept_s = check.collection or "", rag.settings.old_index_kept_s
    description = f"drop the {check.backend} index of {name} that does not serve"
    return Fix(description=description, run=lambda: _dropped(rag, kept_s, name))


def _dropped(rag: Ragstone, kept_s: float, name: str) -> None:
    drop_old(rag, kept_s, name)


def drop_unfinished(rag: Ragstone, check: Check) -> Fix | None:
    """Let an index go that is half built."""
    try:
        collection = find_collection(rag.database, check.collection or "")
    except NotFound:
        return None
    for row in indexes_of(rag.database, collection.id):
        if row.state == "building" and row.backend == check.backend and not is_followed(rag.database, row.id):
            description = f"drop the half built {row.backend} index of {collection.name}"
            return Fix(description=description, run=partial(set_state, rag.database, row.id, "dropping"))
    return None


def _latest(rag: Ragstone, check: Check) -> Move | None:
    found = moves.latest_moves(rag.database)
    return next((move for move in found if move.collection == check.collection), None)


CHECKS: tuple[CheckFunction, ...] = (move, old_index, index_dropping, index_unfinished)
FIXES: dict[str, FixFunction] = {
    "move": go_on,
    "old_index": drop,
    "index_dropping": drop,
    "index_unfinished": drop_unfinished,
}
