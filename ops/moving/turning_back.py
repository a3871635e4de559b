"""Going back: to the index before a move, or to before a move that is under way."""

from backends.corpus import moves
from backends.corpus.collections import find_collection
from backends.corpus.indexes import IndexRow, indexes_of
from backends.corpus.moves import Move
from backends.errors import Conflict
from retrieval.library import Ragstone


def rollback(rag: Ragstone, name: str) -> str:
    """Let the index before the last move serve again, at once, and return its backend.

    It has followed all the while, so nothing is lost. The collection stays there until it is moved again. Raises
    Conflict where there is no such index any more, or a move is under way.
    """
    collection = find_collection(rag.database, name)
    latest = next(iter(moves.latest_moves(rag.database, collection.id)), None)
    if latest is not None and latest.active:
        raise Conflict(f"collection {name!r} is being moved: `ragstone move cancel {name}` stops that")
    before = _index_before(indexes_of(rag.database, collection.id), latest)
    if before is None:
        raise Conflict(
            f"collection {name!r} has no earlier index that still follows; `ragstone move start {name} --to BACKEND` "
            "builds one"
        )
    if before.away_since is not None:
        raise Conflict(f"the {before.backend} index of {name!r} is away: {before.away_reason}")
    moves.roll_back(rag.database, collection, before.id, before.backend)
    return before.backend


def cancel(rag: Ragstone, name: str) -> bool:
    """Ask for the end of the move under way; False where there is none. Who works on it cleans up after itself."""
    return moves.want_cancelled(rag.database, find_collection(rag.database, name))


def _index_before(rows: list[IndexRow], latest: Move | None) -> IndexRow | None:
    kept = [row for row in rows if not row.serving and row.state == "live"]
    from_there = [row for row in kept if latest is not None and row.backend == latest.source]
    return max(from_there or kept, key=lambda row: row.changed_at, default=None)
